import { arrayLength, hostArray, IntFlashError, type Linear, type LinearWeights, plainArray } from '@int-flash/ops';
import { dequantizePerGroupInt4, quantizePerTokenInt8 } from '@int-flash/quant';
import {
  addPackedDots,
  MAX_PACKED_LENGTH,
  packRowPair,
  writeCodeDots,
  writeFloatDots,
  writeFloatVectorDots,
} from './portable-dot-products.js';

const ROW_STEP = 4; // the inner loops take four weight rows and four tokens at a time; both are padded with zeros
const FEW_TOKENS = 3; // up to here a pass over the weights per token is cheaper than packing them

/** Counts bytes of weights that live linear layers hold. */
export interface ByteCounter {
  bytes: number;
}

/**
 * A linear layer in TypeScript. INT8: `y = f32(f32(f32(Σ x·w) · f32(sX · sW)) + bias)`, the sum exact; fp32: `y = f32(Σ x·w + bias)`, the sum in float64;
 * INT4 as fp32 with w = f32(code · scale).
 *
 * @throws {IntFlashError} `ERR_SHAPE` when the arrays do not fit `rows` and `cols`.
 */
export function createPortableLinear(weights: LinearWeights, counter: ByteCounter): Linear {
  const { rows, cols } = weights;
  const paddedRows = Math.ceil(rows / ROW_STEP) * ROW_STEP;
  const bias = weights.bias && copyOf('bias', weights.bias, rows);
  if (weights.type === 'int4') {
    const { group } = weights;
    const packed = copyOf('packed', weights.packed, (rows * cols) / 2);
    const scales = copyOf('scales', weights.scales, (rows * cols) / group);
    return new PortableLinear(
      rows,
      cols,
      new Int4Weights({ type: 'int4', rows, cols, packed, scales, group, bias }),
      counter,
    );
  }
  const given = weights.type === 'int8' ? weights.codes : weights.weights;
  expectLength('weights', given, rows * cols);
  if (weights.type === 'int8') {
    const scales = copyOf('scales', weights.scales, rows);
    const codes = new Int8Array(paddedRows * cols);
    codes.set(weights.codes);
    return new PortableLinear(rows, cols, new Int8Weights(rows, cols, codes, scales, bias), counter);
  }
  const floats = new Float32Array(paddedRows * cols);
  floats.set(weights.weights);
  return new PortableLinear(rows, cols, new FloatWeights(rows, cols, floats, bias), counter);
}

interface HeldWeights {
  readonly bytes: number;
  multiply(input: Float32Array, tokens: number, out: Float32Array): void;
}

class PortableLinear implements Linear {
  #held: HeldWeights | undefined;
  readonly #counter: ByteCounter;

  constructor(
    readonly rows: number,
    readonly cols: number,
    held: HeldWeights,
    counter: ByteCounter,
  ) {
    this.#held = held;
    this.#counter = counter;
    counter.bytes += held.bytes;
  }

  forwardSync(input: Float32Array, tokens: number, given?: Float32Array): Float32Array {
    if (!this.#held) throw new IntFlashError('ERR_DISPOSED', 'Expected a live linear layer, got one that was disposed');
    expectLength('input', input, tokens * this.cols);
    const out = given ?? hostArray(Float32Array, tokens * this.rows, 'the answer');
    expectLength('out', out, tokens * this.rows);
    this.#held.multiply(input, tokens, out);
    return out;
  }

  dispose(): void {
    if (!this.#held) return;
    this.#counter.bytes -= this.#held.bytes;
    this.#held = undefined;
  }
}

class Int8Weights implements HeldWeights {
  readonly bytes: number;

  constructor(
    private readonly rows: number,
    private readonly cols: number,
    private readonly codes: Int8Array,
    private readonly scales: Float32Array,
    private readonly bias: Float32Array | undefined,
  ) {
    this.bytes = codes.byteLength + scales.byteLength + (bias?.byteLength ?? 0);
  }

  multiply(input: Float32Array, tokens: number, out: Float32Array): void {
    const { values, scales } = quantizePerTokenInt8(input, this.cols);
    if (tokens <= FEW_TOKENS) this.#multiplyVectors(values, scales, out);
    else this.#multiplyMatrix(values, scales, out);
  }

  #multiplyVectors(values: Int8Array, scales: Float32Array, out: Float32Array): void {
    const { rows, cols } = this;
    const sums = new Int32Array(ROW_STEP);
    for (let token = 0; token < scales.length; token++) {
      const vector = values.subarray(token * cols, (token + 1) * cols);
      for (let row = 0; row < rows; row += ROW_STEP) {
        writeCodeDots(vector, this.codes, row * cols, cols, sums);
        const last = Math.min(row + ROW_STEP, rows);
        for (let r = row; r < last; r++) out[token * rows + r] = this.#dequantize(sums[r - row]!, scales[token]!, r);
      }
    }
  }

  #multiplyMatrix(values: Int8Array, scales: Float32Array, out: Float32Array): void {
    const { rows, cols } = this;
    const tokens = scales.length;
    const paddedTokens = Math.ceil(tokens / 4) * 4;
    const x = new Float64Array(paddedTokens * cols);
    x.set(values);
    const packed = new Float64Array(2 * cols);
    const sums = new Float64Array(paddedTokens * ROW_STEP);
    for (let row = 0; row < rows; row += ROW_STEP) {
      packRowPair(this.codes, row * cols, (row + 1) * cols, cols, packed, 0);
      packRowPair(this.codes, (row + 2) * cols, (row + 3) * cols, cols, packed, cols);
      sums.fill(0);
      for (let token = 0; token < tokens; token += 4) {
        for (let from = 0; from < cols; from += MAX_PACKED_LENGTH) {
          const length = Math.min(MAX_PACKED_LENGTH, cols - from);
          addPackedDots(x, token * cols + from, cols, packed, from, cols, length, sums, token * ROW_STEP, ROW_STEP);
        }
      }
      const last = Math.min(row + ROW_STEP, rows);
      for (let token = 0; token < tokens; token++) {
        for (let r = row; r < last; r++) {
          out[token * rows + r] = this.#dequantize(sums[token * ROW_STEP + r - row]!, scales[token]!, r);
        }
      }
    }
  }

  #dequantize(sum: number, tokenScale: number, row: number): number {
    const product = Math.fround(Math.fround(sum) * Math.fround(tokenScale * this.scales[row]!));
    return this.bias ? product + this.bias[row]! : product;
  }
}

class FloatWeights implements HeldWeights {
  readonly bytes: number;

  constructor(
    private readonly rows: number,
    private readonly cols: number,
    private readonly weights: Float32Array,
    private readonly bias: Float32Array | undefined,
  ) {
    this.bytes = weights.byteLength + (bias?.byteLength ?? 0);
  }

  multiply(input: Float32Array, tokens: number, out: Float32Array): void {
    const { rows, cols, weights, bias } = this;
    multiplyRows({ x: paddedInput(input, tokens, cols), tokens, rows, cols, bias, out }, weights, 0, rows);
  }
}

/** Widened some rows at a time: the weights stay at half a byte each. */
class Int4Weights implements HeldWeights {
  readonly bytes: number;
  readonly #weights: Extract<LinearWeights, { readonly type: 'int4' }>;

  constructor(weights: Extract<LinearWeights, { readonly type: 'int4' }>) {
    const { packed, scales, bias } = weights;
    this.#weights = weights;
    this.bytes = packed.byteLength + scales.byteLength + (bias?.byteLength ?? 0);
  }

  multiply(input: Float32Array, tokens: number, out: Float32Array): void {
    const { rows, cols, packed, scales, group, bias } = this.#weights;
    const product = { x: paddedInput(input, tokens, cols), tokens, rows, cols, bias, out };
    const wide = new Float32Array(WIDENED_ROWS * cols);
    for (let first = 0; first < rows; first += WIDENED_ROWS) {
      const last = Math.min(first + WIDENED_ROWS, rows);
      const [from, to] = [first * cols, last * cols];
      const codes = { packed: packed.subarray(from / 2, to / 2), scales: scales.subarray(from / group, to / group) };
      dequantizePerGroupInt4({ ...codes, group }, wide);
      multiplyRows(product, wide, first, last);
    }
  }
}

const WIDENED_ROWS = 32; // a multiple of ROW_STEP: rows past the last are left over from before, and their sums not used

/** A product with all rows of a layer. */
interface FloatProduct {
  /** [tokens, cols], with zeros to whole fours of tokens. */
  readonly x: Float64Array;
  readonly tokens: number;
  readonly rows: number;
  readonly cols: number;
  readonly bias: Float32Array | undefined;
  /** [tokens, rows] */
  readonly out: Float32Array;
}

function paddedInput(input: Float32Array, tokens: number, cols: number): Float64Array {
  const x = new Float64Array(Math.ceil(tokens / 4) * 4 * cols);
  x.set(input);
  return x;
}

/** Its rows [first, last), which `weights` begins with. */
function multiplyRows(product: FloatProduct, weights: Float32Array, first: number, last: number): void {
  if (product.tokens <= FEW_TOKENS) multiplyVectors(product, weights, first, last);
  else multiplyMatrix(product, weights, first, last);
}

function multiplyVectors(product: FloatProduct, weights: Float32Array, first: number, last: number): void {
  const { x, tokens, rows, cols, bias, out } = product;
  const sums = new Float64Array(ROW_STEP);
  for (let token = 0; token < tokens; token++) {
    const vector = x.subarray(token * cols, (token + 1) * cols);
    for (let row = first; row < last; row += ROW_STEP) {
      writeFloatVectorDots(vector, weights, (row - first) * cols, cols, sums);
      const end = Math.min(row + ROW_STEP, last);
      for (let r = row; r < end; r++) out[token * rows + r] = sums[r - row]! + (bias?.[r] ?? 0);
    }
  }
}

function multiplyMatrix(product: FloatProduct, weights: Float32Array, first: number, last: number): void {
  const { x, tokens, rows, cols, bias, out } = product;
  const sums = new Float64Array(8);
  for (let row = first; row < last; row += 2) {
    const pair = row + 1 < last;
    const bias0 = bias?.[row] ?? 0;
    const bias1 = bias?.[row + 1] ?? 0;
    for (let token = 0; token < tokens; token += 4) {
      writeFloatDots(x, token * cols, weights, (row - first) * cols, cols, sums);
      const end = Math.min(token + 4, tokens);
      for (let t = token; t < end; t++) {
        out[t * rows + row] = sums[(t - token) * 2]! + bias0;
        if (pair) out[t * rows + row + 1] = sums[(t - token) * 2 + 1]! + bias1;
      }
    }
  }
}

/** Nobody changes a copy; judged by its type too, as a `slice` of another could be anything. */
function copyOf<T extends Float32Array | Uint8Array>(name: string, array: T, length: number): T {
  expectLength(name, array, length);
  return plainArray(array).slice() as T;
}

function expectLength(name: string, array: unknown, expected: number): void {
  const actual = arrayLength(array, name);
  if (actual !== expected)
    throw new IntFlashError('ERR_SHAPE', `Expected ${name} to hold ${expected} elements, got ${actual}`);
}
