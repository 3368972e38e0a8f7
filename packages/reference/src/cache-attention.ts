import { type CacheAttentionArgs, type FlatCacheView, flatCache } from '@int-flash/ops';
import { quantizePerTokenInt8, readFloatInput, unpackInt4 } from '@int-flash/quant';
import { checkScoreBound, magnitude } from './score-bound.js';
import {
  absorbKeys,
  emptyState,
  finishRow,
  mergeState,
  type TwinHead,
  type TwinRules,
  twinWeights,
} from './twin-row.js';
import { visibleBand } from './visible-keys.js';

/** Up to this many queries the keys are walked in runs of {@link RUN_KEYS}, whose results merge in order. */
const SHORT_QUERIES = 8;
const RUN_KEYS = 1024;

/**
 * The integer twin of `Backend.cacheAttentionSync`: [tokens, heads, headDim].
 *
 * @throws {IntFlashError} `ERR_NONFINITE`, `ERR_OVERFLOW` as the backends do.
 */
export function cacheAttention({
  query: givenQuery,
  tokens,
  heads,
  cache: givenCache,
  scale: givenScale,
  windowLeft,
  softcap,
}: CacheAttentionArgs): Float32Array {
  const cache = flatCache(givenCache);
  const scale = Math.fround(givenScale); // backends take float32
  const { headDim, kvHeads, length } = cache;
  const fp32 = cache.type === 'fp32';
  const query = readFloatInput(givenQuery);
  const quantized = quantizePerTokenInt8(query, headDim);
  const rules: TwinRules = {
    headDim,
    headDimV: headDim,
    maxCode: fp32 ? 0 : 255,
    runningMax: false,
    softcap: Math.fround(softcap),
  };
  const out = new Float32Array(tokens * heads * headDim);
  const kvHeadOf = Array.from({ length: kvHeads }, (_, kvHead) => readHead(cache, kvHead));
  const queryMagnitude = magnitude(fp32 ? query : quantized.values, quantized.scales);
  for (const head of kvHeadOf)
    checkScoreBound(queryMagnitude, magnitude(head.keys, head.keyScales), { headDim, scale });
  for (let token = 0; token < tokens; token++) {
    const { first, end } = visibleBand(
      { windowLeft, windowRight: 0, diagonal: 'bottom-right' },
      { qLen: tokens, kLen: length },
      token,
    );
    for (let h = 0; h < heads; h++) {
      const row = token * heads + h;
      const head = kvHeadOf[Math.floor(h / (heads / kvHeads))]!;
      const q = (fp32 ? query : quantized.values).subarray(row * headDim, (row + 1) * headDim);
      const queryScale = Math.fround((fp32 ? 1 : quantized.scales[row]!) * scale);
      const state = emptyState(headDim);
      const step = tokens <= SHORT_QUERIES ? RUN_KEYS : Infinity;
      for (let from = first; from < end; ) {
        const to = Math.min(end, step === Infinity ? end : from - (from % step) + step);
        const run = emptyState(headDim);
        absorbKeys(run, rules, head, q, queryScale, from, to);
        mergeState(state, run);
        from = to;
      }
      finishRow(state, rules, head.channels, out.subarray(row * headDim, (row + 1) * headDim));
    }
  }
  return out;
}

function readHead(cache: FlatCacheView, kvHead: number): TwinHead {
  const { capacity, length, headDim } = cache;
  const [from, to] = [kvHead * capacity, kvHead * capacity + length];
  if (cache.type === 'fp32') {
    return {
      keys: cache.keys.subarray(from * headDim, to * headDim),
      values: cache.values.subarray(from * headDim, to * headDim),
      keyScales: new Float32Array(length).fill(1),
    };
  }
  const codes = (packed: Int8Array | Uint8Array) =>
    packed instanceof Int8Array
      ? packed.subarray(from * headDim, to * headDim)
      : unpackInt4(packed.subarray((from * headDim) / 2, (to * headDim) / 2));
  return {
    keys: codes(cache.keys),
    values: codes(cache.values),
    keyScales: cache.keyScales.subarray(from, to),
    weights: twinWeights(cache.valueScales.subarray(from, to)),
    channels: new Float32Array(headDim).fill(1),
  };
}
