import { IntFlashError } from '@int-flash/ops';
import { type JsonObject, MODEL_JSON, readJsonFile } from './json-file.js';
import { quote } from './json-text.js';
import { MAX_TENSORS } from './safetensors.js';

export const INDEX_FILE = 'model.safetensors.index.json';
const MAX_SHARDS = 1000;

/** Which shard holds which tensor. */
export interface ShardedIndex {
  /** File names in the model folder. */
  readonly shards: readonly string[];
  /** Tensor name → shard. */
  readonly weightMap: ReadonlyMap<string, string>;
}

/** Reads `model.safetensors.index.json`; `undefined` when the folder has none. */
export async function readShardedIndex(folder: string): Promise<ShardedIndex | undefined> {
  const json = await readJsonFile(folder, INDEX_FILE, { ...MODEL_JSON, maxBytes: 2 ** 25 });
  return json && parseShardedIndex(json);
}

/**
 * Judges an index.
 *
 * Shard names come from a file that may be hostile: they must be plain names of safetensors files, so none leads out of the folder.
 * @throws {IntFlashError} `ERR_MODEL_FORMAT`, `ERR_MODEL_LIMIT`.
 */
export function parseShardedIndex(json: JsonObject): ShardedIndex {
  const map = Object.hasOwn(json, 'weight_map') ? json.weight_map : undefined;
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw indexError('weight_map', `Expected weight_map of ${INDEX_FILE} to be an object, got another value`);
  }
  const entries = Object.entries(map);
  if (entries.length === 0) throw indexError('weight_map', `Expected ${INDEX_FILE} to name tensors, got none`);
  if (entries.length > MAX_TENSORS) {
    throw indexError('weight_map', `Expected at most ${MAX_TENSORS} tensors, got ${entries.length}`, 'ERR_MODEL_LIMIT');
  }
  const weightMap = new Map<string, string>();
  for (const [name, shard] of entries) {
    if (typeof shard !== 'string' || !isShardName(shard)) {
      const got = typeof shard === 'string' ? quote(shard) : typeof shard;
      throw indexError(
        `weight_map.${name.slice(0, 120)}`,
        `Expected the shard of ${quote(name)} to be the plain name of a .safetensors file, got ${got}`,
      );
    }
    weightMap.set(name, shard);
  }
  const shards = [...new Set(weightMap.values())].sort();
  if (shards.length > MAX_SHARDS) {
    throw indexError('weight_map', `Expected at most ${MAX_SHARDS} shards, got ${shards.length}`, 'ERR_MODEL_LIMIT');
  }
  return { shards, weightMap };
}

function isShardName(name: string): boolean {
  return /^[\w.-]+$/.test(name) && name.endsWith('.safetensors') && name.length <= 255;
}

function indexError(
  field: string,
  message: string,
  code: 'ERR_MODEL_FORMAT' | 'ERR_MODEL_LIMIT' = 'ERR_MODEL_FORMAT',
): IntFlashError {
  return new IntFlashError(code, message, { field });
}
