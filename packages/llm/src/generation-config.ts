import { checkInteger, readArguments } from '@int-flash/ops';
import { ConfigFields } from './config-fields.js';
import { checkPath } from './file-arguments.js';
import { type JsonObject, MODEL_JSON, readJsonFile } from './json-file.js';

/** How a model's makers sample from it; what is absent they left open. */
export interface GenerationConfig {
  readonly doSample?: boolean;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repeatPenalty?: number;
  readonly maxTokens?: number;
  readonly bosTokenId?: number;
  /** Any of them ends the text. */
  readonly eosTokenIds?: readonly number[];
}

/**
 * Reads `generation_config.json`; an absent file leaves everything open.
 *
 * @param vocabSize Token ids must lie below it.
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT` with `field`; `ERR_ARG_*`.
 */
export async function readGenerationConfig(folder: string, vocabSize: number): Promise<GenerationConfig> {
  checkPath(folder, 'the model folder');
  readArguments(() => checkInteger(vocabSize ?? null, 'vocabSize', 0, 1, Number.MAX_SAFE_INTEGER));
  const json = await readJsonFile(folder, 'generation_config.json', MODEL_JSON);
  return json ? parseGenerationConfig(json, vocabSize) : {};
}

/** Judges the object in a `generation_config.json`. Zero for `top_k` and one for `top_p` mean "off", as everywhere. */
export function parseGenerationConfig(json: JsonObject, vocabSize: number): GenerationConfig {
  const fields = new ConfigFields(json, 'generation_config.json');
  const number = (name: string, min: number, max: number) =>
    fields.has(name) ? fields.number(name, min, max) : undefined;
  const integer = (name: string, max: number) => (fields.has(name) ? fields.integer(name, 0, max) : undefined);
  const all = {
    doSample: fields.has('do_sample') ? fields.boolean('do_sample', false) : undefined,
    temperature: number('temperature', 0, 100),
    topK: integer('top_k', 2 ** 31 - 1),
    topP: number('top_p', 0, 1),
    minP: number('min_p', 0, 1),
    repeatPenalty: number('repetition_penalty', 1e-3, 1e3),
    maxTokens: integer('max_new_tokens', 2 ** 31 - 1),
    bosTokenId: fields.tokenIds('bos_token_id', vocabSize)[0],
    eosTokenIds: fields.has('eos_token_id') ? fields.tokenIds('eos_token_id', vocabSize) : undefined,
  };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}
