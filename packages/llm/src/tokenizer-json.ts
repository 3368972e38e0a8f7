import { describe, IntFlashError } from '@int-flash/ops';
import type { JsonFileRules, JsonObject } from './json-file.js';
import { quote } from './json-text.js';
import { findNestedRepetition } from './regex-repetition.js';

export const TOKENIZER_JSON: JsonFileRules = {
  code: 'ERR_TOKENIZER',
  limitCode: 'ERR_TOKENIZER_LIMIT',
  maxBytes: 2 ** 26, // the largest known, with 256k entries, have 34 MB
};

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/** A tokenizer.json that the library may be given. */
export interface JudgedTokenizerJson {
  readonly json: JsonObject;
  /** Token of each id; ids without a token are holes. */
  readonly tokens: readonly (string | undefined)[];
  readonly addedTokens: readonly AddedToken[];
}

const MAX_IDS = 2 ** 20;
const MAX_TOKEN_LENGTH = 4096;
const MAX_PATTERN_LENGTH = 4096;
const MAX_STEPS = 64; // of a normalizer, pre-tokenizer, post-processor or decoder
const MODEL_TYPES = ['BPE', 'Unigram', 'WordPiece'];
const STEP_KEYS = ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder'] as const;

/**
 * Judges a tokenizer.json before the library sees it: the library takes negative ids, ids of 2^32, and patterns that never end.
 *
 * @throws {IntFlashError} `ERR_TOKENIZER`, `ERR_TOKENIZER_LIMIT` with `field`; `ERR_UNSUPPORTED` for another kind of model.
 */
export function judgeTokenizerJson(json: JsonObject): JudgedTokenizerJson {
  const model = objectAt(json, 'model');
  const type = model.type ?? (model.merges === undefined ? undefined : 'BPE'); // old files leave it out
  if (typeof type !== 'string' || !MODEL_TYPES.includes(type)) {
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected a tokenizer model of type ${MODEL_TYPES.join(', ')}, got another`,
      {
        field: 'model.type',
      },
    );
  }
  const tokens: (string | undefined)[] = [];
  const idOf = new Map<string, number>();
  const add = (token: unknown, id: unknown, field: string): void => {
    if (typeof token !== 'string') throw fault(field, `Expected ${field} to hold strings, got another value`);
    if (token.length > MAX_TOKEN_LENGTH)
      throw limit(field, `Expected tokens of at most ${MAX_TOKEN_LENGTH} characters`);
    const name = `${field} ${quote(token)}`;
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0) {
      throw fault(field, `Expected the id of ${name} to be an integer of at least 0, got ${describe(id)}`);
    }
    if (id >= MAX_IDS) throw limit(field, `Expected the id of ${name} to be below ${MAX_IDS}, got ${id}`);
    if (tokens[id] !== undefined && tokens[id] !== token) {
      throw fault(field, `Expected id ${id} to have one token, got ${quote(tokens[id])} and ${quote(token)}`);
    }
    const other = idOf.get(token);
    if (other !== undefined && other !== id)
      throw fault(field, `Expected ${name} to have one id, got ${other} and ${id}`);
    tokens[id] = token;
    idOf.set(token, id);
  };
  readVocab(model, type, add);
  const addedTokens = readAddedTokens(json, add);
  if (type === 'BPE') judgeMerges(model, idOf);
  const filled: Record<string, unknown> = { ...json, added_tokens: json.added_tokens ?? [] };
  for (const key of STEP_KEYS) {
    filled[key] = json[key] ?? null;
    judgeSteps(filled[key], key);
  }
  filled.model = { ...model, type, ...(type === 'BPE' ? { merges: model.merges ?? [] } : {}) };
  return { json: filled, tokens, addedTokens };
}

type Add = (token: unknown, id: unknown, field: string) => void;

function readVocab(model: JsonObject, type: string, add: Add): void {
  const { vocab } = model;
  if (type === 'Unigram') {
    if (!Array.isArray(vocab))
      throw fault('model.vocab', 'Expected model.vocab of Unigram to be an array, got another value');
    vocab.forEach((entry: unknown, id) => {
      if (!Array.isArray(entry) || typeof entry[1] !== 'number') {
        throw fault('model.vocab', `Expected entry ${id} of model.vocab to be [token, score], got another value`);
      }
      add(entry[0], id, 'model.vocab');
    });
    return;
  }
  const entries = Object.entries(objectAt(model, 'vocab', 'model.'));
  if (entries.length === 0) throw fault('model.vocab', 'Expected model.vocab to hold tokens, got none');
  for (const [token, id] of entries) add(token, id, 'model.vocab');
}

function readAddedTokens(json: JsonObject, add: Add): AddedToken[] {
  const list = json.added_tokens ?? [];
  if (!Array.isArray(list)) throw fault('added_tokens', 'Expected added_tokens to be an array, got another value');
  return list.map((entry: unknown) => {
    if (!isObject(entry)) throw fault('added_tokens', 'Expected added_tokens to hold objects, got another value');
    add(entry.content, entry.id, 'added_tokens');
    if (entry.content === '')
      throw fault('added_tokens', 'Expected added tokens of at least one character, got an empty one');
    return { id: entry.id as number, content: entry.content as string, special: entry.special === true };
  });
}

/** A merge joins two known tokens into a known one; "a b" or ["a", "b"]. */
function judgeMerges(model: JsonObject, idOf: ReadonlyMap<string, number>): void {
  const merges = model.merges ?? [];
  if (!Array.isArray(merges)) throw fault('model.merges', 'Expected model.merges to be an array, got another value');
  const asPairs = Array.isArray(merges[0]);
  merges.forEach((merge: unknown, i) => {
    const pair: unknown = !asPairs && typeof merge === 'string' ? merge.split(' ', 3) : merge;
    if (!Array.isArray(pair) || pair.length !== 2 || !pair.every((part) => typeof part === 'string')) {
      throw fault('model.merges', `Expected entry ${i} of model.merges to join two tokens, got another value`);
    }
    const [left, right] = pair as [string, string];
    const prefix = typeof model.continuing_subword_prefix === 'string' ? model.continuing_subword_prefix : '';
    const whole = left + (prefix && right.startsWith(prefix) ? right.slice(prefix.length) : right);
    const unknown = [left, right, whole].find((token) => !idOf.has(token));
    if (unknown !== undefined) {
      throw fault('model.merges', `Expected entry ${i} of model.merges to join known tokens, got ${quote(unknown)}`);
    }
  });
}

/** Walks the steps of a normalizer, pre-tokenizer, post-processor or decoder for what could run forever. */
function judgeSteps(value: unknown, field: string): void {
  if (Array.isArray(value)) {
    if (value.length > MAX_STEPS)
      throw limit(field, `Expected at most ${MAX_STEPS} entries in ${field}, got ${value.length}`);
    for (const entry of value) judgeSteps(entry, field);
    return;
  }
  if (!isObject(value)) return;
  if (value.type === 'FixedLength' && !(Number.isInteger(value.length) && (value.length as number) >= 1)) {
    throw fault(field, `Expected the length of FixedLength in ${field} to be an integer of at least 1`);
  }
  if (value.pattern !== undefined) judgePattern(value.pattern, field);
  for (const [key, entry] of Object.entries(value)) {
    // precompiled_charsmap is a long string, special_tokens a table; neither is a step.
    if (key !== 'precompiled_charsmap' && key !== 'special_tokens') judgeSteps(entry, field);
  }
}

function judgePattern(value: unknown, field: string): void {
  const pattern = isObject(value) ? (value.Regex ?? value.String) : undefined;
  if (typeof pattern !== 'string') {
    throw fault(field, `Expected a pattern of ${field} to be {"Regex": …} or {"String": …}, got another value`);
  }
  if (pattern.length > MAX_PATTERN_LENGTH) {
    throw limit(
      field,
      `Expected a pattern of at most ${MAX_PATTERN_LENGTH} characters in ${field}, got ${pattern.length}`,
    );
  }
  const group = (value as JsonObject).Regex === undefined ? undefined : findNestedRepetition(pattern);
  if (group !== undefined) {
    throw limit(field, `Expected patterns of ${field} to repeat no group that repeats or chooses, got ${quote(group)}`);
  }
}

function objectAt(owner: JsonObject, key: string, path = ''): JsonObject {
  const value = Object.hasOwn(owner, key) ? owner[key] : undefined;
  if (!isObject(value))
    throw fault(path + key, `Expected ${path}${key} of tokenizer.json to be an object, got another value`);
  return value;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function fault(field: string, message: string): IntFlashError {
  return new IntFlashError('ERR_TOKENIZER', message, { field });
}

function limit(field: string, message: string): IntFlashError {
  return new IntFlashError('ERR_TOKENIZER_LIMIT', message, { field });
}
