import { IntFlashError, type KvCacheView } from '@int-flash/ops';
import { hadamardRotate, quantizePerTokenInt8, roundHalfEven } from '@int-flash/quant';
import { quantizeFittedInt4 } from './fitted-int4.js';
import { int8Scale, writeInt8Row } from './int8-rows.js';

export const KV_CACHE_DTYPES = ['fp32', 'int8', 'int4'] as const;
/** How a cache stores keys and values; the sizes are 4, 1 and 1/2 byte an element, the latter two with two scales a token and head. */
export type KvCacheDtype = (typeof KV_CACHE_DTYPES)[number];

/** New keys and values of `tokens` positions: row t of either starts at its offset + t · stride and holds all kv heads. */
export interface KeyValueRows {
  readonly data: Float32Array;
  readonly tokens: number;
  readonly keyOffset: number;
  readonly valueOffset: number;
  readonly stride: number;
}

/** One layer's keys and values, [kvHeads, capacity, headDim]. */
export interface KvCacheLayer {
  readonly bytes: number;
  /** Stores rows behind the first `length` tokens, for which there is room. */
  write(rows: KeyValueRows, length: number): void;
  /** Keeps the first `length` tokens of each head. */
  resize(length: number, capacity: number): void;
  view(length: number): KvCacheView;
}

/** A key offset is the mean of this many tokens at most, so that chunks of this size or more give the same one … */
const OFFSET_TOKENS = 64;
/** … and of no fewer than this: a mean of few says little of the keys to come. */
const MIN_OFFSET_TOKENS = 8;
/** A value row never gets a scale below this part of the largest one before it: a row of zeros would underflow the weights. */
const VALUE_SCALE_FLOOR = 2 ** -20;
const ZERO_ROW_SCALE = 2 ** -126; // what quantizers give a row of zeros

export function createKvCacheLayer(dtype: KvCacheDtype, kvHeads: number, headDim: number): KvCacheLayer {
  return dtype === 'fp32' ? new FloatLayer(kvHeads, headDim) : new CodeLayer(dtype, kvHeads, headDim);
}

class FloatLayer implements KvCacheLayer {
  #keys = new Float32Array(0);
  #values = new Float32Array(0);
  #capacity = 0;

  constructor(
    private readonly kvHeads: number,
    private readonly headDim: number,
  ) {}

  get bytes(): number {
    return this.#keys.byteLength + this.#values.byteLength;
  }

  write({ data, tokens, keyOffset, valueOffset, stride }: KeyValueRows, length: number): void {
    const { kvHeads, headDim } = this;
    for (let head = 0; head < kvHeads; head++) {
      for (let token = 0; token < tokens; token++) {
        const from = token * stride + head * headDim;
        const to = (head * this.#capacity + length + token) * headDim;
        this.#keys.set(data.subarray(keyOffset + from, keyOffset + from + headDim), to);
        this.#values.set(data.subarray(valueOffset + from, valueOffset + from + headDim), to);
      }
    }
  }

  resize(length: number, capacity: number): void {
    const { kvHeads, headDim } = this;
    const shape = { heads: kvHeads, from: this.#capacity, to: capacity, length };
    this.#keys = regrow(this.#keys, new Float32Array(kvHeads * capacity * headDim), shape, headDim);
    this.#values = regrow(this.#values, new Float32Array(kvHeads * capacity * headDim), shape, headDim);
    this.#capacity = capacity;
  }

  view(length: number): KvCacheView {
    const { kvHeads, headDim } = this;
    return { type: 'fp32', kvHeads, capacity: this.#capacity, headDim, length, keys: this.#keys, values: this.#values };
  }
}

/**
 * INT8 or INT4 codes, one scale a token and head.
 *
 * From keys an offset is subtracted first, one vector a head, frozen at the first write (their mean over it): softmax does not
 * see it, and the grid no longer spends its range on what all keys share. INT4
 * keys are rotated after that, INT4 values too (hadamardRotate): queries must be turned alike, and what attention makes of the
 * values turned back.
 */
class CodeLayer implements KvCacheLayer {
  readonly #rowBytes: number;
  #keys: Int8Array | Uint8Array = new Int8Array(0);
  #values: Int8Array | Uint8Array = new Int8Array(0);
  #keyScales = new Float32Array(0);
  #valueScales = new Float32Array(0);
  #capacity = 0;
  readonly #offsets: Float32Array;
  /** Per head: the largest value scale so far, 0 while all value rows were zero. */
  readonly #largest: Float32Array;

  constructor(
    private readonly type: 'int8' | 'int4',
    private readonly kvHeads: number,
    private readonly headDim: number,
  ) {
    this.#rowBytes = type === 'int8' ? headDim : headDim / 2;
    this.#offsets = new Float32Array(kvHeads * headDim);
    this.#largest = new Float32Array(kvHeads);
  }

  get bytes(): number {
    const { byteLength: keys } = this.#keys;
    return 2 * (keys + this.#keyScales.byteLength);
  }

  write(rows: KeyValueRows, length: number): void {
    if (length === 0) this.#start(rows);
    if (this.type === 'int8') {
      for (let head = 0; head < this.kvHeads; head++) this.#writeInt8Head(rows, length, head);
      return;
    }
    this.#writeInt4Keys(rows, length);
    this.#writeInt4Values(rows, length);
  }

  resize(length: number, capacity: number): void {
    const { kvHeads: heads, type } = this;
    const shape = { heads, from: this.#capacity, to: capacity, length };
    const codes = () => {
      const count = heads * capacity * this.#rowBytes;
      return type === 'int8' ? new Int8Array(count) : new Uint8Array(count);
    };
    this.#keys = regrow(this.#keys, codes(), shape, this.#rowBytes);
    this.#values = regrow(this.#values, codes(), shape, this.#rowBytes);
    this.#keyScales = regrow(this.#keyScales, new Float32Array(heads * capacity), shape, 1);
    this.#valueScales = regrow(this.#valueScales, new Float32Array(heads * capacity), shape, 1);
    this.#capacity = capacity;
  }

  view(length: number): KvCacheView {
    const { kvHeads, headDim } = this;
    const shape = { kvHeads, headDim, capacity: this.#capacity, length };
    const scales = { keyScales: this.#keyScales, valueScales: this.#valueScales };
    return this.type === 'int8'
      ? { ...shape, ...scales, type: 'int8', keys: this.#keys as Int8Array, values: this.#values as Int8Array }
      : { ...shape, ...scales, type: 'int4', keys: this.#keys as Uint8Array, values: this.#values as Uint8Array };
  }

  /** Freezes the key offsets; whatever was stored before is gone. */
  #start({ data, tokens, keyOffset, stride }: KeyValueRows): void {
    this.#largest.fill(0);
    this.#offsets.fill(0);
    if (tokens < MIN_OFFSET_TOKENS) return;
    const counted = Math.min(tokens, OFFSET_TOKENS);
    for (let d = 0; d < this.#offsets.length; d++) {
      let sum = 0;
      for (let token = 0; token < counted; token++) sum += data[keyOffset + token * stride + d]!;
      this.#offsets[d] = sum / counted;
    }
  }

  #writeInt8Head(rows: KeyValueRows, length: number, head: number): void {
    const { data, tokens, keyOffset, valueOffset, stride } = rows;
    const { headDim } = this;
    const keys = this.#keys as Int8Array;
    const values = this.#values as Int8Array;
    const first = head * this.#capacity + length;
    const offset = head * headDim;
    const before = this.#largest[head]!;
    let largest = before;
    for (let token = 0; token < tokens; token++) {
      const row = first + token;
      const key = keyOffset + token * stride + offset;
      const keyScale = int8Scale(data, key, headDim, this.#offsets, offset);
      const valueScale = int8Scale(data, valueOffset + token * stride + offset, headDim, undefined, 0);
      if (Number.isNaN(keyScale) || Number.isNaN(valueScale)) this.#refuse(rows);
      this.#keyScales[row] = keyScale;
      this.#valueScales[row] = valueScale;
      writeInt8Row(data, key, headDim, this.#offsets, offset, keyScale, keys, row * headDim);
      if (valueScale > ZERO_ROW_SCALE && valueScale > largest) largest = valueScale;
    }
    const floor = valueScaleFloor(largest);
    for (let token = 0; token < tokens; token++) {
      const row = first + token;
      if (this.#valueScales[row]! < floor) this.#valueScales[row] = floor;
      const from = valueOffset + token * stride + offset;
      writeInt8Row(data, from, headDim, undefined, 0, this.#valueScales[row]!, values, row * headDim);
    }
    this.#settleLargest(head, length, before, largest, floor);
  }

  /** Rows of zeros at the very start had nothing to compare with; their scale is free, so it follows once there is something. */
  #settleLargest(head: number, length: number, before: number, largest: number, floor: number): void {
    const first = head * this.#capacity;
    if (before === 0 && largest > 0) this.#valueScales.fill(floor, first, first + length);
    this.#largest[head] = largest;
  }

  /** Says which element is not finite, as the quantizer does. */
  #refuse(rows: KeyValueRows): void {
    for (const offset of [rows.keyOffset, rows.valueOffset])
      quantizePerTokenInt8(gatherByHead(rows, offset, this.kvHeads, this.headDim), this.headDim);
    throw new IntFlashError('ERR_NONFINITE', 'Expected keys and values that stay finite less their offset');
  }

  #writeInt4Keys(rows: KeyValueRows, length: number): void {
    const { headDim } = this;
    const keys = gatherByHead(rows, rows.keyOffset, this.kvHeads, headDim);
    for (let head = 0, i = 0; head < this.kvHeads; head++) {
      for (let token = 0; token < rows.tokens; token++) {
        for (let d = 0; d < headDim; d++, i++) keys[i]! -= this.#offsets[head * headDim + d]!;
      }
    }
    const { packed, scales } = quantizeFittedInt4(hadamardRotate(keys, headDim), headDim);
    this.#place(packed, scales, this.#keys, this.#keyScales, rows.tokens, length);
  }

  #writeInt4Values(rows: KeyValueRows, length: number): void {
    const { tokens } = rows;
    const given = gatherByHead(rows, rows.valueOffset, this.kvHeads, this.headDim);
    const values = hadamardRotate(given, this.headDim);
    const { packed, scales } = quantizeFittedInt4(values, this.headDim);
    for (let head = 0; head < this.kvHeads; head++) {
      const first = head * tokens;
      const before = this.#largest[head]!;
      let largest = before;
      for (let row = first; row < first + tokens; row++)
        if (scales[row]! > ZERO_ROW_SCALE) largest = Math.max(largest, scales[row]!);
      const floor = valueScaleFloor(largest);
      for (let row = first; row < first + tokens; row++) {
        if (scales[row]! < floor) {
          scales[row] = floor;
          this.#encodeInt4Row(values, packed, row, floor);
        }
      }
      this.#settleLargest(head, length, before, largest, floor);
    }
    this.#place(packed, scales, this.#values, this.#valueScales, tokens, length);
  }

  /** Codes of one row under a scale larger than its own. */
  #encodeInt4Row(values: Float32Array, packed: Uint8Array, row: number, scale: number): void {
    const { headDim } = this;
    const code = (d: number) => roundHalfEven(Math.fround(values[row * headDim + d]! / scale));
    for (let byte = 0; byte < this.#rowBytes; byte++)
      packed[row * this.#rowBytes + byte] = (code(2 * byte) & 15) | (code(2 * byte + 1) << 4);
  }

  #place(
    codes: Uint8Array,
    scales: Float32Array,
    toCodes: Int8Array | Uint8Array,
    toScales: Float32Array,
    tokens: number,
    length: number,
  ): void {
    const bytes = tokens * this.#rowBytes;
    for (let head = 0; head < this.kvHeads; head++) {
      const to = head * this.#capacity + length;
      toCodes.set(codes.subarray(head * bytes, (head + 1) * bytes), to * this.#rowBytes);
      toScales.set(scales.subarray(head * tokens, (head + 1) * tokens), to);
    }
  }
}

function valueScaleFloor(largest: number): number {
  return largest === 0 ? 1 : Math.fround(largest * VALUE_SCALE_FLOOR);
}

/** [kvHeads, tokens, headDim] of rows that hold all heads of one token after another. */
function gatherByHead(
  { data, tokens, stride }: KeyValueRows,
  offset: number,
  kvHeads: number,
  headDim: number,
): Float32Array {
  const out = new Float32Array(kvHeads * tokens * headDim);
  for (let head = 0; head < kvHeads; head++) {
    for (let token = 0; token < tokens; token++) {
      const from = offset + token * stride + head * headDim;
      out.set(data.subarray(from, from + headDim), (head * tokens + token) * headDim);
    }
  }
  return out;
}

interface Growth {
  readonly heads: number;
  readonly from: number;
  readonly to: number;
  readonly length: number;
}

/** Copies the first `length` rows of each head into an array with room for more. */
function regrow<T extends Float32Array | Int8Array | Uint8Array>(
  old: T,
  grown: T,
  { heads, from, to, length }: Growth,
  row: number,
): T {
  for (let head = 0; head < heads; head++) {
    grown.set(old.subarray(head * from * row, (head * from + length) * row), head * to * row);
  }
  return grown;
}
