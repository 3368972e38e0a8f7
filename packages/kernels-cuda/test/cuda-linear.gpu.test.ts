import { fromFloat32, type Int4Group, type LinearWeights, toFloat32 } from '@int-flash/ops';
import { fma32, quantizePerGroupInt4, quantizePerTokenInt8, unpackInt4, widenInt4Linear } from '@int-flash/quant';
import { seededNormal, seededUniform } from '@int-flash/reference';
import { afterEach, describe, expect, it } from 'vitest';
import { createCudaBackend } from '../src/cuda-backend.js';
import { openCudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import { loadNativeAddon } from '../src/native-addon.js';

// REQUIRE_CUDA=1 turns this skip into a failure (vitest.setup.ts).
const available = cudaStatus().available;
const backend = available ? createCudaBackend() : undefined!;

function normals(count: number, seed: number): Float32Array {
  return Float32Array.from({ length: count }, seededNormal(seededUniform(seed)));
}

function int8Weights(rows: number, cols: number, withBias: boolean) {
  const { values: codes, scales } = quantizePerTokenInt8(normals(rows * cols, 1), cols);
  return { type: 'int8', rows, cols, codes, scales, bias: withBias ? normals(rows, 2) : undefined } as const;
}

type Int8Weights = Extract<LinearWeights, { type: 'int8' }>;

/** docs/arithmetic.md, operation by operation: a scale for each group of columns, whose sums are added up in order. */
function groupOracle({ rows, cols, codes, scales, bias }: Int8Weights, group: number, input: Float32Array) {
  const groups = cols / group;
  const x = quantizePerTokenInt8(input, group); // a group as a token
  const out = new Float32Array((input.length / cols) * rows);
  for (let token = 0; token < input.length / cols; token++) {
    for (let row = 0; row < rows; row++) {
      let y = 0;
      for (let g = 0; g < groups; g++) {
        let sum = 0;
        for (let c = g * group; c < (g + 1) * group; c++) sum += x.values[token * cols + c]! * codes[row * cols + c]!;
        const scale = Math.fround(x.scales[token * groups + g]! * scales[row * groups + g]!);
        y = Math.fround(y + Math.fround(Math.fround(sum) * scale));
      }
      out[token * rows + row] = bias ? y + bias[row]! : y;
    }
  }
  return out;
}

function int8Oracle(weights: Int8Weights, input: Float32Array) {
  return groupOracle(weights, weights.cols, input);
}

function int4Oracle(weights: Extract<LinearWeights, { type: 'int4' }>, input: Float32Array) {
  const codes = unpackInt4(weights.packed, weights.rows * weights.cols);
  return groupOracle({ ...weights, type: 'int8', codes }, weights.group, input);
}

/** Sixteen partial sums by fma, column c into sum c mod 16, folded 8, 4, 2, 1. */
function floatOracle(weights: Float32Array, rows: number, cols: number, input: Float32Array) {
  const tokens = input.length / cols;
  const out = new Float32Array(tokens * rows);
  for (let token = 0; token < tokens; token++) {
    for (let row = 0; row < rows; row++) {
      const sums = new Float32Array(16);
      for (let c = 0; c < cols; c++)
        sums[c % 16] = fma32(weights[row * cols + c]!, input[token * cols + c]!, sums[c % 16]!);
      for (let half = 8; half >= 1; half /= 2) for (let i = 0; i < half; i++) sums[i]! += sums[i + half]!;
      out[token * rows + row] = sums[0]!;
    }
  }
  return out;
}

function unequalBits(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  return a.reduce((count, x, i) => count + Number(x !== b[i]), 0);
}

// 1 to 8 tokens (of weights in bfloat16 1) are a product by rows, more go through tiles: of 64 (INT8; of 32 or 64 rows), 32 or 64 (float32), 16 or 32
// (bfloat16); each size has a neighbour that leaves a ragged tile. Columns: less than a 16-byte load, no multiple of the padding, and several steps of a
// tile's pipeline.
const SHAPES = [
  [3, 5],
  [64, 64],
  [37, 100],
  [130, 384],
  [65, 1024],
] as const;
const TOKENS = [1, 2, 3, 8, 9, 16, 17, 33, 64, 70];

describe.skipIf(!available)('CUDA linear layers', () => {
  afterEach(() => expect(backend.liveBytes()).toBe(0));

  it.each(SHAPES)('INT8 %i x %i: the bits of the CPU’s arithmetic', (rows, cols) => {
    for (const withBias of [false, true]) {
      const weights = int8Weights(rows, cols, withBias);
      const layer = backend.createLinear(weights);
      for (const tokens of TOKENS) {
        const input = normals(tokens * cols, 3);
        input.fill(0, 0, cols); // a row of zeros has the smallest scale there is
        expect(unequalBits(layer.forwardSync(input, tokens), int8Oracle(weights, input)), `${tokens} tokens`).toBe(0);
      }
      layer.dispose();
    }
  });

  it.each(SHAPES)('float weights that bfloat16 holds, %i x %i: half the memory, the same bits', (rows, cols) => {
    const weights = toFloat32(fromFloat32(normals(rows * cols, 1), 'bfloat16'), 'bfloat16');
    const before = backend.liveBytes();
    const layer = backend.createLinear({ type: 'fp32', rows, cols, weights });
    expect(backend.liveBytes() - before).toBe(2 * rows * 64 * Math.ceil(cols / 64));
    for (const tokens of TOKENS) {
      const input = normals(tokens * cols, 3);
      expect(unequalBits(layer.forwardSync(input, tokens), floatOracle(weights, rows, cols, input))).toBe(0);
    }
    layer.dispose();
  });

  it('INT8, so many tokens that tiles are of 64 rows', () => {
    const weights = int8Weights(300, 70, true);
    const layer = backend.createLinear(weights);
    const input = normals(4000 * 70, 3);
    expect(unequalBits(layer.forwardSync(input, 4000), int8Oracle(weights, input))).toBe(0);
    layer.dispose();
  });

  it.each(SHAPES)('fp32 %i x %i: the bits of the native CPU’s arithmetic', (rows, cols) => {
    const weights = normals(rows * cols, 1);
    const layer = backend.createLinear({ type: 'fp32', rows, cols, weights });
    for (const tokens of TOKENS) {
      const input = normals(tokens * cols, 3);
      expect(unequalBits(layer.forwardSync(input, tokens), floatOracle(weights, rows, cols, input))).toBe(0);
    }
    layer.dispose();
  });

  // 96 and 160 columns leave part of a block of 128 empty, 5,248 are 41 blocks, several rounds of all that are on their way at a time; 7, 33 and 65 rows a ragged tile.
  it.each(
    [32, 64, 128].flatMap((group) =>
      [
        [7, group],
        [33, 3 * group],
        [65, 1024],
        [21, 5248],
      ].map(([rows, cols]) => [group, rows!, cols!] as const),
    ),
  )('INT4 in groups of %i, %i x %i: the bits of the native CPU’s arithmetic', (group, rows, cols) => {
    const bias = normals(rows, 2);
    const codes = quantizePerGroupInt4(normals(rows * cols, 1), cols, group as Int4Group);
    codes.packed.set([0x88, 0x7f, 0x80, 0x0f], 0); // -8, which quantizers do not make but files may hold
    const weights = { type: 'int4', rows, cols, bias, ...codes } as const;
    const layer = backend.createLinear(weights);
    for (const tokens of TOKENS) {
      const input = normals(tokens * cols, 3);
      input.fill(0, 0, group); // a group of zeros
      expect(unequalBits(layer.forwardSync(input, tokens), int4Oracle(weights, input)), `${tokens} tokens`).toBe(0);
    }
    layer.dispose();
  });

  // 265 and more tiles of 64 rows: larger ones than those of the shapes above.
  it.each([32, 64, 128] as const)('INT4 in groups of %i: many rows, a token’s bits alone and among others', (group) => {
    const [rows, cols, tokens] = [16_900, 640, 70];
    const codes = quantizePerGroupInt4(normals(rows * cols, 1), cols, group);
    const layer = backend.createLinear({ type: 'int4', rows, cols, bias: normals(rows, 2), ...codes });
    const input = normals(tokens * cols, 3);
    const among = layer.forwardSync(input, tokens);
    for (const token of [0, 31, 32, 63, 64, 69]) {
      const alone = layer.forwardSync(input.slice(token * cols, (token + 1) * cols), 1);
      expect(unequalBits(alone, among.slice(token * rows, (token + 1) * rows)), `token ${token}`).toBe(0);
    }
    layer.dispose();
  });

  it('INT4: a row as in fp32, but for what eight bits leave of an input', () => {
    const [rows, cols] = [40, 1024];
    const weights = {
      type: 'int4',
      rows,
      cols,
      bias: undefined,
      ...quantizePerGroupInt4(normals(rows * cols, 1), cols, 64),
    } as const;
    const [layer, twin] = [backend.createLinear(weights), backend.createLinear(widenInt4Linear(weights))];
    const input = normals(20 * cols, 3);
    const [out, expected] = [layer.forwardSync(input, 20), twin.forwardSync(input, 20)];
    const error = Math.hypot(...out.map((y, i) => y - expected[i]!)) / Math.hypot(...expected);
    expect(error).toBeGreaterThan(0);
    expect(error).toBeLessThan(0.01); // a step of 1/127 of a group's largest number, of normal ones: 0.6%
    layer.dispose();
    twin.dispose();
  });

  it('gives a token the same bits alone and among others', () => {
    const weights = int8Weights(200, 320, true);
    const layer = backend.createLinear(weights);
    const input = normals(100 * 320, 5);
    const among = layer.forwardSync(input, 100);
    for (const token of [0, 63, 64, 99]) {
      const alone = layer.forwardSync(input.slice(token * 320, (token + 1) * 320), 1);
      expect(unequalBits(alone, among.slice(token * 200, (token + 1) * 200))).toBe(0);
    }
    layer.dispose();
  });

  // 2^20 weights and more than 8 tokens are cuBLASLt's where it is there. 1,026 rows are no multiple of four, which it may refuse: ours then.
  it.each([1028, 1026])('gives the same bits through cuBLASLt, if there is one: %i rows', (rows) => {
    const addon = loadNativeAddon().addon!;
    const device = addon.openDevice(0);
    process.stderr.write(`cuBLASLt: ${addon.cublasLtVersion(device) || 'none'}\n`);
    addon.closeDevice(device);
    const cols = 1028;
    const weights = int8Weights(rows, cols, true);
    const layer = backend.createLinear(weights);
    for (const tokens of [9, 64, 65, 200]) {
      const input = normals(tokens * cols, 7);
      const together = layer.forwardSync(input, tokens);
      const apart = new Float32Array(tokens * rows);
      for (let token = 0; token < tokens; token += 8) {
        const end = Math.min(token + 8, tokens);
        apart.set(layer.forwardSync(input.slice(token * cols, end * cols), end - token), token * rows);
      }
      expect(unequalBits(together, apart), `${tokens} tokens`).toBe(0);
    }
    layer.dispose();
  });

  it('keeps its memory for the next one, until it is told to give it back', async () => {
    const [rows, cols] = [8192, 16384];
    await using device = openCudaDevice();
    await backend.trim!();
    const { free: before } = await device.memory();
    const taken = async () => before - (await device.memory()).free; // gives back what `device` itself keeps, which is nothing
    const codes = new Int8Array(rows * cols);
    backend.createLinear({ type: 'int8', rows, cols, codes, scales: new Float32Array(rows).fill(1) }).dispose();
    expect(await taken()).toBeGreaterThanOrEqual(rows * cols);
    await backend.trim!();
    expect(Math.abs(await taken())).toBeLessThan(rows * cols * 0.5);
  });

  it('refuses what does not fit, NaN, and use after disposal; and works afterwards', () => {
    const shape = { type: 'fp32', rows: 4, cols: 8 } as const;
    const make = (weights: object) => () => backend.createLinear(weights as LinearWeights);
    expect(make({ ...shape, weights: new Float32Array(31) })).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
    expect(make({ ...shape, weights: new Float32Array(32), bias: new Float32Array(3) })).toThrow(
      expect.objectContaining({ code: 'ERR_SHAPE' }),
    );
    const layer = backend.createLinear({ ...int8Weights(4, 8, false) });
    for (const bad of [Number.NaN, Infinity, -Infinity]) {
      const input = new Float32Array(16).fill(1);
      input[13] = bad;
      expect(() => layer.forwardSync(input, 2)).toThrow(expect.objectContaining({ code: 'ERR_NONFINITE' }));
    }
    expect(() => layer.forwardSync(new Float32Array(9), 1)).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
    expect(() => layer.forwardSync(new Float32Array(8), 1, new Float32Array(5))).toThrow(
      expect.objectContaining({ code: 'ERR_SHAPE' }),
    );
    expect(layer.forwardSync(new Float32Array(8).fill(1), 1).some((y) => y !== 0)).toBe(true);
    expect(backend.liveBytes()).toBeGreaterThan(0);
    layer.dispose();
    layer.dispose();
    expect(() => layer.forwardSync(new Float32Array(8), 1)).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
  });
});
