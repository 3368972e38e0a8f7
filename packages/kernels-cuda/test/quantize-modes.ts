import type { QuantizeOptions } from '../src/device-quantize.js';

/** Ways to quantize that need a statistic of all tokens. */
export const QUANTIZE_MODES: readonly (readonly [string, QuantizeOptions])[] = [
  ['smoothK', { smoothK: true }],
  ['smoothK, 4 bits', { smoothK: true, bits: 4 }],
  ['a scale a channel', { granularity: 'channel' }],
  ['a scale a tensor', { granularity: 'tensor' }],
];
