import {
  arrayLength,
  type CacheAttentionArgs,
  type FlatCacheView,
  flatCache,
  hostArray,
  IntFlashError,
  plainArray,
} from '@int-flash/ops';
import { quantizePerTokenInt8, unpackInt4 } from '@int-flash/quant';
import { maxMagnitude } from './portable-float-rows.js';
import {
  type KeyValueHead,
  keyRowsLength,
  noWeights,
  packKeyCodes,
  packValueCodes,
  packValueFloats,
  readWeights,
  TILE_KEYS,
  valueColumnsLength,
} from './portable-key-value.js';
import { BLOCK_ROWS, RowBlock } from './portable-row-block.js';
import { checkScoreBound } from './portable-score-bound.js';

const RUN_KEYS = 1024; // a short query block restarts after each (docs/arithmetic.md, The other precisions)
const SHORT_QUERIES = 8;

/**
 * Attention of the last `tokens` positions against the cache. The queries of all heads that share a key/value head go through its
 * tiles together, so that decoding one token still fills the inner loops.
 *
 * @throws {IntFlashError} `ERR_SHAPE`, `ERR_NONFINITE`, `ERR_OVERFLOW`.
 */
export function attendCache(args: CacheAttentionArgs, given?: Float32Array): Float32Array {
  const { tokens, heads, windowLeft } = args;
  const cache = flatCache(args.cache);
  const scale = Math.fround(args.scale); // as the native backends take it
  const { headDim, kvHeads, length } = cache;
  checkShapes(args, cache, given);
  const query = plainArray(args.query);
  const out = given ?? hostArray(Float32Array, query.length, 'the answer');
  const group = heads / kvHeads;
  const rowsPerHead = tokens * group;
  const fp32 = cache.type === 'fp32';
  const quantized = quantizePerTokenInt8(query, headDim); // rejects non-finite queries in the fp32 case too
  const source = fp32 ? query : quantized.values;
  const oldest = Math.max(0, length - tokens - windowLeft);
  const packFrom = oldest - (oldest % TILE_KEYS);
  const block = new RowBlock({
    headDim,
    headDimV: headDim,
    maxCode: fp32 ? 0 : 255,
    runningMax: false,
    softcap: Math.fround(args.softcap),
    mask: undefined,
  });
  for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
    const head = packCacheHead(cache, kvHead, packFrom);
    if (!fp32)
      checkScoreBound(127 * maxMagnitude(quantized.scales), 127 * maxMagnitude(head.keyScales), headDim, scale);
    for (let first = 0; first < rowsPerHead; first += BLOCK_ROWS) {
      const rows = Math.min(BLOCK_ROWS, rowsPerHead - first);
      block.start(rows);
      for (let row = 0; row < rows; row++) {
        const token = Math.floor((first + row) / group);
        const queryRow = token * heads + kvHead * group + ((first + row) % group);
        const position = length - tokens + token;
        block.query.set(source.subarray(queryRow * headDim, (queryRow + 1) * headDim), row * headDim);
        const queryScale = fp32 ? 1 : quantized.scales[queryRow]!;
        block.setRow(row, Math.fround(queryScale * scale), Math.max(position - windowLeft, 0), position + 1, 0);
      }
      absorbKeys(block, head, tokens <= SHORT_QUERIES);
      for (let row = 0; row < rows; row++) {
        const token = Math.floor((first + row) / group);
        const queryRow = token * heads + kvHead * group + ((first + row) % group);
        block.finishRow(row, head.epilogue, out, queryRow * headDim);
      }
    }
  }
  return out;
}

function absorbKeys(block: RowBlock, head: KeyValueHead, inRuns: boolean): void {
  const { first, end } = block.bounds();
  for (let tile = first - (first % TILE_KEYS); tile < end; tile += TILE_KEYS) {
    block.absorbTile(head, tile, Math.max(first - tile, 0), Math.min(end - tile, TILE_KEYS));
    const next = tile + TILE_KEYS;
    if (inRuns && (next % RUN_KEYS === 0 || next >= end)) block.mergeRun();
  }
  if (inRuns) block.takeTotal();
}

function packCacheHead(cache: FlatCacheView, kvHead: number, from: number): KeyValueHead {
  const { headDim, length, capacity } = cache;
  const start = kvHead * capacity * headDim;
  const codes = cache.type !== 'fp32';
  const keyRows = new Float64Array(keyRowsLength(length, headDim, codes));
  const valueColumns = new Float64Array(valueColumnsLength(length, headDim, codes));
  if (cache.type === 'fp32') {
    keyRows.set(cache.keys.subarray(start + from * headDim, start + length * headDim), from * headDim);
    for (let tile = from; tile < length; tile += TILE_KEYS) {
      packValueFloats(
        cache.values,
        start + tile * headDim,
        Math.min(TILE_KEYS, length - tile),
        headDim,
        valueColumns,
        tile * headDim,
      );
    }
    return {
      keysAreCodes: false,
      valuesAreCodes: false,
      keyRows,
      valueColumns,
      keyScales: new Float32Array(length).fill(1),
      ...noWeights(length),
      epilogue: undefined,
    };
  }
  const [keys, values, codeStart] =
    cache.type === 'int8'
      ? [cache.keys, cache.values, start]
      : [unpackHead(cache.keys, start, length * headDim), unpackHead(cache.values, start, length * headDim), 0];
  packKeyCodes(keys, codeStart, from, length, headDim, keyRows);
  for (let tile = from; tile < length; tile += TILE_KEYS) {
    packValueCodes(
      values,
      codeStart + tile * headDim,
      Math.min(TILE_KEYS, length - tile),
      headDim,
      valueColumns,
      (tile * headDim) / 2,
    );
  }
  return {
    keysAreCodes: true,
    valuesAreCodes: true,
    keyRows,
    valueColumns,
    keyScales: cache.keyScales.subarray(kvHead * capacity, kvHead * capacity + length),
    ...readWeights(cache.valueScales.subarray(kvHead * capacity, kvHead * capacity + length)),
    epilogue: new Float32Array(headDim).fill(1 / 255),
  };
}

/** Codes two a byte; headDim is even, so a head starts on a byte. */
function unpackHead(packed: Uint8Array, start: number, count: number): Int8Array {
  return unpackInt4(packed.subarray(start / 2, (start + count) / 2), count);
}

function checkShapes(
  { query, tokens, heads }: CacheAttentionArgs,
  cache: FlatCacheView,
  out: Float32Array | undefined,
): void {
  const { kvHeads, capacity, headDim, length, keys, values, type } = cache;
  const expect = (what: string, actual: number, expected: number) => {
    if (actual !== expected) throw new IntFlashError('ERR_SHAPE', `Expected ${what} to be ${expected}, got ${actual}`);
  };
  const answer = tokens * heads * headDim;
  expect('query length', arrayLength(query, 'query'), answer);
  if (out) expect('out length', arrayLength(out, 'out'), answer);
  const elements = (kvHeads * capacity * headDim) / (type === 'int4' ? 2 : 1);
  expect('cache keys length', arrayLength(keys, 'cache keys'), elements);
  expect('cache values length', arrayLength(values, 'cache values'), elements);
  if (type !== 'fp32') {
    expect('cache keyScales length', arrayLength(cache.keyScales, 'cache keyScales'), kvHeads * capacity);
    expect('cache valueScales length', arrayLength(cache.valueScales, 'cache valueScales'), kvHeads * capacity);
  }
  expect('heads modulo kvHeads', heads % kvHeads, 0);
  expect('headDim modulo 8', headDim % 8, 0);
  if (!(tokens <= length && length <= capacity)) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected tokens <= cache length <= capacity, got ${tokens}, ${length} and ${capacity}`,
    );
  }
}
