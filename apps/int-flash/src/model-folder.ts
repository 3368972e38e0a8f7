import { existsSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isGgufPath } from '@int-flash/llm';
import { IntFlashError } from '@int-flash/ops';

/** Where the shipped model lies relative to dist/cli.js: in an installed package, then in a checkout of the repository. */
const SHIPPED = ['../model/int-flash-demo', '../../../models/int-flash-demo'];

/**
 * The folder, or GGUF file, of the model to run: what was asked for, else `INT_FLASH_MODEL`, else the demo model that ships.
 *
 * @throws {IntFlashError} `ERR_MODEL_FORMAT` when there is no config.json in it, with what to do about it.
 */
export function findModel(asked: string | undefined, env: NodeJS.ProcessEnv): string {
  const named = asked ?? env.INT_FLASH_MODEL;
  if (named !== undefined && named !== '') {
    const source = asked === undefined ? 'INT_FLASH_MODEL' : 'the model';
    return checkedFolder(resolve(named), source);
  }
  const shipped = shippedModel();
  if (shipped) return shipped;
  throw new IntFlashError('ERR_MODEL_FORMAT', 'Expected the demo model next to this command, got none', {
    hint: 'Name a folder in Hugging Face format with --model <folder> or INT_FLASH_MODEL; the demo model lies in models/int-flash-demo of the int-flash repository.',
  });
}

/** The demo model's folder, or undefined when this copy came without it. */
export function shippedModel(): string | undefined {
  return SHIPPED.map((path) => fileURLToPath(new URL(path, import.meta.url))).find((folder) =>
    existsSync(`${folder}/config.json`),
  );
}

function checkedFolder(folder: string, source: string): string {
  if (existsSync(`${folder}/config.json`) || (isGgufPath(folder) && existsSync(folder))) return folder;
  const there = statSync(folder, { throwIfNoEntry: false });
  const found = !there
    ? `no such ${isGgufPath(folder) ? 'file' : 'folder'}`
    : there.isDirectory()
      ? 'no config.json in it'
      : 'another file';
  throw new IntFlashError(
    'ERR_MODEL_FORMAT',
    `Expected ${source} to be a folder with a config.json or a .gguf file, got ${found}: ${folder}`,
    {
      hint: 'A model is a folder in Hugging Face format (config.json, *.safetensors, tokenizer.json) or a GGUF file.',
    },
  );
}
