import { float32ToFloat16Bits, IntFlashError, KV_PAGE_TOKENS, type KvCacheView } from '@int-flash/ops';
import type { KeyValueRows, KvCacheLayer, LayerState } from './kv-cache-layer.js';
import { copyPageRows, rowOf } from './paged-rows.js';

const LARGEST_HALF = 65504;
const NONE = new Float32Array(0);

/** Keys and values as they are, or as the float16 nearest to them. */
export class FloatCacheLayer implements KvCacheLayer {
  readonly pageBytes: number;
  readonly #type: 'fp32' | 'fp16';
  readonly #kvHeads: number;
  readonly #headDim: number;
  readonly #capacity: number;
  readonly #keys: Float32Array | Uint16Array;
  readonly #values: Float32Array | Uint16Array;

  constructor(type: 'fp32' | 'fp16', kvHeads: number, headDim: number, pages: number) {
    this.#type = type;
    this.#kvHeads = kvHeads;
    this.#headDim = headDim;
    this.#capacity = pages * KV_PAGE_TOKENS;
    const count = kvHeads * this.#capacity * headDim;
    const make = () => (type === 'fp32' ? new Float32Array(count) : new Uint16Array(count));
    this.#keys = make();
    this.#values = make();
    this.pageBytes = (2 * this.#keys.byteLength) / pages;
  }

  start(): LayerState {
    return { offsets: NONE, channels: NONE, largest: NONE };
  }

  write(
    { data, tokens, keyOffset, valueOffset, stride }: KeyValueRows,
    _state: LayerState,
    pages: Int32Array,
    length: number,
  ): void {
    const headDim = this.#headDim;
    for (let token = 0; token < tokens; token++) {
      const row = rowOf(pages, length + token);
      for (let head = 0; head < this.#kvHeads; head++) {
        const from = token * stride + head * headDim;
        const to = (head * this.#capacity + row) * headDim;
        this.#writeRow(data, keyOffset + from, this.#keys, to);
        this.#writeRow(data, valueOffset + from, this.#values, to);
      }
    }
  }

  writeBy(): boolean {
    return false;
  }

  view(pages: Int32Array, length: number): KvCacheView {
    const shape = { kvHeads: this.#kvHeads, capacity: this.#capacity, headDim: this.#headDim, length, pages };
    return this.#type === 'fp32'
      ? { ...shape, type: 'fp32', keys: this.#keys as Float32Array, values: this.#values as Float32Array }
      : { ...shape, type: 'fp16', keys: this.#keys as Uint16Array, values: this.#values as Uint16Array };
  }

  copyPage(from: number, to: number): void {
    const shape = { heads: this.#kvHeads, capacity: this.#capacity, width: this.#headDim };
    copyPageRows(this.#keys, shape, from, to);
    copyPageRows(this.#values, shape, from, to);
  }

  largestAt(): Float32Array {
    return NONE;
  }

  #writeRow(data: Float32Array, from: number, rows: Float32Array | Uint16Array, to: number): void {
    const headDim = this.#headDim;
    if (this.#type === 'fp32') {
      rows.set(data.subarray(from, from + headDim), to);
      return;
    }
    for (let d = 0; d < headDim; d++) {
      const x = data[from + d]!;
      if (!(x >= -LARGEST_HALF && x <= LARGEST_HALF)) {
        throw new IntFlashError(
          Number.isFinite(x) ? 'ERR_OVERFLOW' : 'ERR_NONFINITE',
          `Expected keys and values of at most ${LARGEST_HALF} for a float16 cache, got ${x}`,
        );
      }
      rows[to + d] = float32ToFloat16Bits(x);
    }
  }
}
