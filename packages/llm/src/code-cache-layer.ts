import { type Backend, IntFlashError, type KeyScales, KV_PAGE_TOKENS, type KvCacheView } from '@int-flash/ops';
import { hadamardRotate, quantizePerTokenInt8 } from '@int-flash/quant';
import { channelScales, divideKeys } from './channel-scales.js';
import { nearestInt4, quantizeFittedInt4 } from './fitted-int4.js';
import { int8Scale, writeInt8Row } from './int8-rows.js';
import type { KeyValueRows, KvCacheLayer, LayerState, WriteRows } from './kv-cache-layer.js';
import { copyPageRows, rowOf } from './paged-rows.js';

/** A key offset is the mean of this many tokens at most, so that chunks of this size or more give the same one … */
const OFFSET_TOKENS = 64;
/** … and of no fewer than this: a mean of few says little of the keys to come. */
const MIN_OFFSET_TOKENS = 8;
/** A value row never gets a scale below this part of the largest one before it: a row of zeros would underflow the weights. */
const VALUE_SCALE_FLOOR = 2 ** -20;
const ZERO_ROW_SCALE = 2 ** -126; // what quantizers give a row of zeros

type CodeView = Extract<KvCacheView, { readonly type: 'int8' | 'int4' }>;

/**
 * INT8 or INT4 codes, one scale a token and head.
 *
 * From keys an offset is subtracted first, one vector a head, frozen at a sequence's first write (their mean over it): softmax does
 * not see it, and the grid no longer spends its range on what all keys share. INT4 keys are rotated after that, INT4 values too
 * (hadamardRotate): queries must be turned alike, and what attention makes of the values turned back.
 *
 * With `channel` key scales, keys and what is subtracted from them are divided by {@link channelScales} before; queries are to be multiplied by them.
 *
 * A row depends on its own token, the offset and the tokens before, so it has the same bits however the tokens came after the first write.
 */
export class CodeCacheLayer implements KvCacheLayer {
  readonly pageBytes: number;
  readonly #type: 'int8' | 'int4';
  readonly #kvHeads: number;
  readonly #headDim: number;
  readonly #rowBytes: number;
  readonly #capacity: number;
  readonly #keys: Int8Array | Uint8Array;
  readonly #values: Int8Array | Uint8Array;
  readonly #keyScales: Float32Array;
  readonly #valueScales: Float32Array;
  readonly #backend: Backend | undefined;
  readonly #hasChannelScales: boolean;

  /** @param backend Quantizes rows where it has a way of its own; the bits are the same without. */
  constructor(
    type: 'int8' | 'int4',
    kvHeads: number,
    headDim: number,
    pages: number,
    backend?: Backend,
    keyScales: KeyScales = 'token',
  ) {
    this.#hasChannelScales = keyScales === 'channel';
    this.#backend = backend;
    this.#type = type;
    this.#kvHeads = kvHeads;
    this.#headDim = headDim;
    this.#rowBytes = type === 'int8' ? headDim : headDim / 2;
    this.#capacity = pages * KV_PAGE_TOKENS;
    const rows = kvHeads * this.#capacity;
    const codes = () =>
      type === 'int8' ? new Int8Array(rows * this.#rowBytes) : new Uint8Array(rows * this.#rowBytes);
    this.#keys = codes();
    this.#values = codes();
    this.#keyScales = new Float32Array(rows);
    this.#valueScales = new Float32Array(rows);
    this.pageBytes = (2 * (this.#keys.byteLength + this.#keyScales.byteLength)) / pages;
  }

  start(): LayerState {
    const offsets = new Float32Array(this.#kvHeads * this.#headDim);
    return { offsets, channels: new Float32Array(0), largest: new Float32Array(this.#kvHeads) };
  }

  write(rows: KeyValueRows, state: LayerState, pages: Int32Array, length: number): void {
    if (length === 0) this.#begin(rows, state);
    if (state.channels.length > 0) divideKeys(rows, state.channels);
    if (this.#backend?.appendCacheSync) {
      const appended = this.#backend.appendCacheSync({
        rows: rows.data,
        tokens: rows.tokens,
        keyOffset: rows.keyOffset,
        valueOffset: rows.valueOffset,
        stride: rows.stride,
        cache: this.view(pages, length) as CodeView,
        keyShift: state.offsets,
        largestValueScale: state.largest,
      });
      if (!appended) this.#refuse(rows);
      return;
    }
    if (this.#type === 'int8') {
      for (let head = 0; head < this.#kvHeads; head++) this.#writeInt8Head(rows, state, pages, length, head);
      return;
    }
    this.#writeInt4Keys(rows, state, pages, length);
    this.#writeInt4Values(rows, state, pages, length);
  }

  writeBy(write: WriteRows, rows: KeyValueRows, state: LayerState, pages: Int32Array, length: number): boolean {
    if (length === 0 || state.channels.length > 0) return false;
    if (!write(this.view(pages, length) as CodeView, state.offsets, state.largest)) this.#refuse(rows);
    return true;
  }

  view(pages: Int32Array, length: number): KvCacheView {
    // Field by field: every layer makes one of these for every token.
    return {
      type: this.#type,
      kvHeads: this.#kvHeads,
      headDim: this.#headDim,
      capacity: this.#capacity,
      length,
      pages,
      keys: this.#keys,
      values: this.#values,
      keyScales: this.#keyScales,
      valueScales: this.#valueScales,
    } as KvCacheView;
  }

  copyPage(from: number, to: number): void {
    const codes = { heads: this.#kvHeads, capacity: this.#capacity, width: this.#rowBytes };
    const scales = { ...codes, width: 1 };
    copyPageRows(this.#keys, codes, from, to);
    copyPageRows(this.#values, codes, from, to);
    copyPageRows(this.#keyScales, scales, from, to);
    copyPageRows(this.#valueScales, scales, from, to);
  }

  largestAt(length: number, from: number, known: Float32Array, pages: Int32Array): Float32Array {
    return known.map((before, head) => {
      let largest = before;
      for (let token = from; token < length; token++) {
        const row = head * this.#capacity + rowOf(pages, token);
        // A scale that a floor decided belongs to codes of zero, or is far below those that decided the floor.
        if (this.#valueScales[row]! > largest && !this.#isZero(row)) largest = this.#valueScales[row]!;
      }
      return largest;
    });
  }

  #isZero(row: number): boolean {
    for (let i = row * this.#rowBytes; i < (row + 1) * this.#rowBytes; i++) if (this.#values[i] !== 0) return false;
    return true;
  }

  /** Freezes the key offsets, and their channels' scales where those have some. */
  #begin(rows: KeyValueRows, state: LayerState): void {
    const { data, tokens, keyOffset, stride } = rows;
    state.largest = new Float32Array(this.#kvHeads);
    state.channels = new Float32Array(0);
    state.offsets = new Float32Array(this.#kvHeads * this.#headDim); // the old array may be another sequence's too
    if (tokens < MIN_OFFSET_TOKENS) return;
    const counted = Math.min(tokens, OFFSET_TOKENS);
    for (let d = 0; d < state.offsets.length; d++) {
      let sum = 0;
      for (let token = 0; token < counted; token++) sum += data[keyOffset + token * stride + d]!;
      state.offsets[d] = sum / counted;
    }
    if (!this.#hasChannelScales) return;
    state.channels = channelScales({ rows, kvHeads: this.#kvHeads, headDim: this.#headDim }, state.offsets, counted);
    state.channels.forEach((scale, d) => {
      state.offsets[d]! /= scale;
    });
  }

  #writeInt8Head(rows: KeyValueRows, state: LayerState, pages: Int32Array, length: number, head: number): void {
    const { data, tokens, keyOffset, valueOffset, stride } = rows;
    const { offsets } = state;
    const headDim = this.#headDim;
    const offset = head * headDim;
    for (let token = 0; token < tokens; token++) {
      const row = head * this.#capacity + rowOf(pages, length + token);
      const key = keyOffset + token * stride + offset;
      const value = valueOffset + token * stride + offset;
      const keyScale = int8Scale(data, key, headDim, offsets, offset);
      const ownScale = int8Scale(data, value, headDim, undefined, 0);
      if (Number.isNaN(keyScale) || Number.isNaN(ownScale)) this.#refuse(rows);
      const valueScale = this.#settleScale(ownScale, state, pages, length + token, head);
      this.#keyScales[row] = keyScale;
      this.#valueScales[row] = valueScale;
      writeInt8Row(data, key, headDim, offsets, offset, keyScale, this.#keys as Int8Array, row * headDim);
      writeInt8Row(data, value, headDim, undefined, 0, valueScale, this.#values as Int8Array, row * headDim);
    }
  }

  /** The scale of a value row that would have `own`, and the largest so far brought up to date. */
  #settleScale(own: number, state: LayerState, pages: Int32Array, position: number, head: number): number {
    const before = state.largest[head]!;
    if (own > ZERO_ROW_SCALE && own > before) {
      state.largest[head] = own;
      // Rows of zeros at the very start had nothing to compare with; their scale is free, so it follows once there is something.
      if (before === 0) {
        for (let token = 0; token < position; token++)
          this.#valueScales[head * this.#capacity + rowOf(pages, token)] = valueScaleFloor(own);
      }
      return own;
    }
    return Math.max(own, valueScaleFloor(before));
  }

  /** Says which element is not finite, as the quantizer does. */
  #refuse(rows: KeyValueRows): void {
    for (const offset of [rows.keyOffset, rows.valueOffset])
      quantizePerTokenInt8(gatherByHead(rows, offset, this.#kvHeads, this.#headDim), this.#headDim);
    throw new IntFlashError('ERR_NONFINITE', 'Expected keys and values that stay finite less their offset');
  }

  #writeInt4Keys(rows: KeyValueRows, { offsets }: LayerState, pages: Int32Array, length: number): void {
    const headDim = this.#headDim;
    const keys = gatherByHead(rows, rows.keyOffset, this.#kvHeads, headDim);
    for (let head = 0, i = 0; head < this.#kvHeads; head++) {
      for (let token = 0; token < rows.tokens; token++) {
        for (let d = 0; d < headDim; d++, i++) keys[i]! -= offsets[head * headDim + d]!;
      }
    }
    const { packed, scales } = quantizeFittedInt4(hadamardRotate(keys, headDim), headDim);
    this.#place(packed, this.#keys, rows.tokens, pages, length);
    for (let i = 0; i < scales.length; i++) this.#keyScales[this.#row(i, rows.tokens, pages, length)] = scales[i]!;
  }

  #writeInt4Values(rows: KeyValueRows, state: LayerState, pages: Int32Array, length: number): void {
    const { tokens } = rows;
    const given = gatherByHead(rows, rows.valueOffset, this.#kvHeads, this.#headDim);
    const values = hadamardRotate(given, this.#headDim);
    const { packed, scales } = quantizeFittedInt4(values, this.#headDim);
    for (let i = 0; i < scales.length; i++) {
      const own = scales[i]!;
      const scale = this.#settleScale(own, state, pages, length + (i % tokens), Math.floor(i / tokens));
      this.#valueScales[this.#row(i, tokens, pages, length)] = scale;
      if (scale !== own) this.#encodeInt4Row(values, packed, i, scale);
    }
    this.#place(packed, this.#values, tokens, pages, length);
  }

  /** Codes of one row under a scale larger than its own, which may still be smaller than its largest element asks for. */
  #encodeInt4Row(values: Float32Array, packed: Uint8Array, row: number, scale: number): void {
    const headDim = this.#headDim;
    const code = (d: number) => nearestInt4(Math.fround(values[row * headDim + d]! / scale));
    for (let byte = 0; byte < this.#rowBytes; byte++)
      packed[row * this.#rowBytes + byte] = (code(2 * byte) & 15) | (code(2 * byte + 1) << 4);
  }

  /** @param codes [kvHeads, tokens, rowBytes] */
  #place(codes: Uint8Array, to: Int8Array | Uint8Array, tokens: number, pages: Int32Array, length: number): void {
    const bytes = this.#rowBytes;
    for (let i = 0; i < tokens * this.#kvHeads; i++)
      to.set(codes.subarray(i * bytes, (i + 1) * bytes), this.#row(i, tokens, pages, length) * bytes);
  }

  /** Where row i of [kvHeads, tokens] new ones goes. */
  #row(i: number, tokens: number, pages: Int32Array, length: number): number {
    return Math.floor(i / tokens) * this.#capacity + rowOf(pages, length + (i % tokens));
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
