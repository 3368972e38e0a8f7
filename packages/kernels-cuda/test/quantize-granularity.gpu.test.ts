import { type FloatType, fromFloat32, toFloat32 } from '@int-flash/ops';
import {
  encodePerTokenInt4,
  quantizePerChannelInt8,
  quantizePerTensorInt8,
  quantizePerTokenInt8,
  smoothK,
} from '@int-flash/quant';
import { seededNormal, seededUniform } from '@int-flash/reference';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaTensor } from '../src/cuda-tensor.js';
import type { CudaQuantizedTensor, QuantizeOptions } from '../src/device-quantize.js';
import { type DeviceHandle, loadNativeAddon, type NativeAddon } from '../src/native-addon.js';
import { FLT_MAX } from './ceilings.js';
import { repeated, unevenNumbers } from './normal-numbers.js';
import { QUANTIZE_MODES } from './quantize-modes.js';
import { firstDifference } from './same-bits.js';

const TYPES = ['float32', 'float16', 'bfloat16'] as const;
const size = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);

/** So many different heads by turns are all there are of large tensors of many: what quant said of one need not be asked again. */
const HEADS_BY_TURNS = 10;

interface Expected {
  readonly codes: Int8Array;
  readonly scales: Float32Array;
  readonly means?: Float32Array;
}

/** quant's answer for each [batch, head], or for everything. */
function expectedOf(given: Float32Array, dims: readonly number[], options: QuantizeOptions): Expected {
  const [tokens, dim] = [dims.at(-2)!, dims.at(-1)!];
  if (options.granularity === 'tensor') {
    const { values, scale } = quantizePerTensorInt8(given);
    return { codes: values, scales: Float32Array.of(scale) };
  }
  const heads = size(dims.slice(0, -2));
  const codes = new Int8Array(given.length);
  const scales = new Float32Array(heads * (options.smoothK ? tokens : dim));
  const means = new Float32Array(heads * dim);
  const rowsOf = (head: number) => given.subarray(head * tokens * dim, (head + 1) * tokens * dim);
  const copy = (all: Int8Array | Float32Array, from: number, to: number) => {
    const length = all.length / heads;
    all.copyWithin(to * length, from * length, (from + 1) * length);
  };
  for (let head = 0; head < heads; head++) {
    const at = head * tokens * dim;
    const rows = rowsOf(head);
    const before = head - HEADS_BY_TURNS;
    if (before >= 0 && firstDifference(rowsOf(before), rows) === -1) {
      for (const all of [codes, scales, means]) copy(all, before, head);
      continue;
    }
    if (options.smoothK) {
      const { values, mean } = smoothK(rows, dim);
      const four = options.bits === 4 ? encodePerTokenInt4(values, dim) : undefined;
      const eight = four ? undefined : quantizePerTokenInt8(values, dim);
      codes.set(four?.codes ?? eight!.values, at);
      scales.set(four?.scales ?? eight!.scales, head * tokens);
      means.set(mean, head * dim);
    } else {
      const made = quantizePerChannelInt8(rows, dim);
      codes.set(made.values, at);
      scales.set(made.scales, head * dim);
    }
  }
  return { codes, scales, ...(options.smoothK && { means }) };
}

/** `data` as `type` has it. */
const narrow = (data: Float32Array, type: FloatType) => (type === 'float32' ? data : fromFloat32(data, type));
const widen = (data: unknown, type: FloatType) =>
  type === 'float32' ? (data as Float32Array) : toFloat32(data as Uint16Array, type);

interface LargeNumbers {
  readonly data: ReturnType<typeof narrow>;
  /** The same as float32. */
  readonly given: Float32Array;
}
const large = new Map<FloatType, LargeNumbers>();
/** 64 MiB and more, made once. */
function largeNumbers(type: FloatType, dims: readonly number[]): LargeNumbers {
  const period = size(dims.slice(0, -2)) > HEADS_BY_TURNS ? HEADS_BY_TURNS * dims.at(-2)! : 10_007;
  const make = (): LargeNumbers => {
    const data = repeated(narrow(unevenNumbers([period, dims.at(-1)!], 7), type), size(dims));
    return { data, given: widen(data, type) };
  };
  const made = large.get(type) ?? make();
  large.set(type, made);
  return made;
}

describe.skipIf(!cudaStatus().available)('quantize() with a statistic of all tokens', () => {
  let addon: NativeAddon;
  let handle: DeviceHandle;
  let device: CudaDevice;
  beforeAll(() => {
    addon = loadNativeAddon().addon!;
    handle = addon.openDevice(0);
    device = new CudaDevice(addon, handle);
  });
  afterAll(() => {
    expect(device.liveBytes()).toBe(0);
    device.dispose();
  });
  const upload = (type: FloatType, dims: readonly number[], data: Float32Array) =>
    device.upload({ type, dims: [...dims], data: narrow(data, type) });
  const codesIn = async (tensor: CudaTensor) => (await tensor.download()).data as Int8Array;
  const floatsIn = async (tensor: CudaTensor) => (await tensor.download()).data as Float32Array;
  const dispose = (...owned: (CudaTensor | CudaQuantizedTensor)[]) => {
    for (const one of owned)
      for (const tensor of 'codes' in one ? [one.codes, one.scales, one.means] : [one]) tensor?.dispose();
  };

  /** That what the device made has quant's bits for the numbers that the tensor has. */
  async function expectBits(
    made: CudaQuantizedTensor,
    tensor: CudaTensor,
    options: QuantizeOptions,
    what = '',
    given?: Float32Array,
  ) {
    const { type, dims } = tensor;
    const expected = expectedOf(given ?? widen((await tensor.download()).data, type as FloatType), dims, options);
    const channels = [...dims.slice(0, -2), dims.at(-1)!];
    expect(made.codes.dims).toEqual(dims);
    expect(made.scales.dims).toEqual(
      options.granularity === 'tensor' ? [] : options.granularity === 'channel' ? channels : dims.slice(0, -1),
    );
    expect(made.means?.dims).toEqual(options.smoothK ? channels : undefined);
    if (made.means)
      expect(firstDifference(await floatsIn(made.means), expected.means!), `${what} the first mean that differs`).toBe(
        -1,
      );
    expect(firstDifference(await floatsIn(made.scales), expected.scales), `${what} the first scale that differs`).toBe(
      -1,
    );
    expect(firstDifference(await codesIn(made.codes), expected.codes), `${what} the first code that differs`).toBe(-1);
  }
  async function check(tensor: CudaTensor, options: QuantizeOptions, what?: string, given?: Float32Array) {
    const made = await device.quantize(tensor, options);
    await expectBits(made, tensor, options, what, given);
    dispose(made);
  }

  describe.each(QUANTIZE_MODES)('%s', (_, options) => {
    it.each(
      TYPES.flatMap((type) =>
        [
          [1, 8],
          [7, 8],
          [1, 128],
          [129, 256],
          [2, 3, 130, 64],
          [2, 257, 72],
          [1, 2, 1000, 128],
          [3, 300, 200],
          [2, 2, 129, 256],
          [5000, 16],
          [600, 96],
          [2, 5, 3, 24],
          [5, 1, 1, 128],
          [40, 30, 1, 8],
          [3, 7, 64, 248],
        ].map((dims) => [type, dims] as const),
      ),
    )('has quant’s bits: %s, %o', async (type, dims) => {
      const tensor = await upload(type, dims, unevenNumbers(dims, 1));
      await addon.poisonShared(handle);
      await check(tensor, options);
      dispose(tensor);
    });

    it.each(TYPES)('has quant’s bits for every head dimension: %s', async (type) => {
      for (let dim = 8; dim <= 256; dim += 8) {
        const tensor = await upload(type, [2, 150, dim], unevenNumbers([2, 150, dim], dim));
        await check(tensor, options, `dim ${dim}:`);
        dispose(tensor);
      }
    });

    it.each([[[0, 8]], [[2, 0, 3, 16]], [[0, 2, 4, 8]], [[2, 3, 0, 40]], [[3, 0, 256]]])(
      'takes tensors without elements: %o',
      async (dims) => {
        const tensor = await upload('float16', dims, new Float32Array(0));
        await check(tensor, options);
        dispose(tensor);
      },
    );

    it.each(TYPES)('reads rows through strides and from any element, and nothing besides: %s', async (type) => {
      const length = 3 * 140 * 137 + 64;
      const memory = await upload(type, [length], new Float32Array(length).fill(Number.NaN));
      const numbers = seededNormal(seededUniform(3));
      for (const [dims, strides, elementOffset] of [
        [[2, 130, 40], [48, 3 * 48, 1], 0], // tokens of two heads by turns, aligned
        [[2, 130, 40], [41, 3 * 41, 1], 3], // the same, nothing aligned
        [[3, 2, 65, 24], [140 * 137, 24, 56, 1], 8],
        [[4, 30, 64], [0, 72, 1], 16], // heads that are the same rows
        [[50, 1, 64], [88, 7, 1], 1],
        [[2, 140, 128], [140 * 137, 137, 1], 5],
      ] as const) {
        const view = memory.view([...dims], { strides: [...strides], elementOffset });
        const data = new Float32Array(length).fill(Number.NaN);
        const index = dims.map(() => 0);
        for (let i = 0; i < size(dims); i++) {
          data[index.reduce((at, x, axis) => at + x * strides[axis]!, elementOffset)] = numbers() + (i % 5);
          for (let axis = dims.length - 1; axis >= 0 && ++index[axis]! === dims[axis]; axis--) index[axis] = 0;
        }
        await memory.write(narrow(data, type));
        await check(view, options, `strides ${strides}:`);
      }
      dispose(memory);
    });

    it('takes a transposed tensor, as layers hand it over', async () => {
      const dims = [3, 200, 4, 128];
      for (const type of TYPES) {
        const tensor = await upload(type, dims, unevenNumbers(dims, 5));
        await check(tensor.transpose(1, 2), options, type);
        await check(tensor.slice(1, 17, 180).transpose(1, 2).slice(1, 1, 3), options, `${type}, sliced`);
        dispose(tensor);
      }
    });

    it('takes numbers from the smallest to the largest, and zeros', async () => {
      const dims = [2, 70, 64];
      for (const type of ['float32', 'bfloat16'] as const)
        for (const exponent of [-45, -38, -30, -20, 0, 20, 37]) {
          const normal = seededNormal(seededUniform(exponent + 100));
          // Even channels are all of this size, odd ones ordinary.
          const data = Float32Array.from({ length: size(dims) }, (_, i) => normal() * (i % 2 ? 1 : 10 ** exponent));
          const tensor = await upload(type, dims, data);
          await check(tensor, options, `${type}, 1e${exponent} and 1:`);
          await tensor.write(narrow(data.map((x, i) => (i % 2 ? 0 : x)) as Float32Array, type));
          await check(tensor, options, `${type}, 1e${exponent} and 0:`);
          dispose(tensor);
        }
      const zeros = await upload('float16', dims, new Float32Array(size(dims)));
      await check(zeros, options, 'zeros');
      dispose(zeros);
      const largest = await upload('float32', [3, 8], new Float32Array(24).fill(FLT_MAX));
      await check(largest, options, 'FLT_MAX');
      dispose(largest);
    });

    // 64, 68 and 73 MiB: many heads, one long one, and rows that are no power of two long.
    it.each([
      ['bfloat16', [2, 32, 4096, 128]],
      ['float16', [140_007, 256]],
      ['float32', [1, 2, 60_001, 160]],
    ] as const)(
      'has quant’s bits of 64 MiB and more: %s, %o',
      async (type, dims) => {
        const { data, given } = largeNumbers(type, dims);
        const tensor = await device.upload({ type, dims: [...dims], data });
        await check(tensor, options, '', given);
        dispose(tensor);
        await device.trim();
      },
      120_000,
    );

    it('refuses NaN and Infinity, wherever they are', async () => {
      const dims = [2, 3, 300, 72];
      const data = unevenNumbers(dims, 9);
      for (const type of TYPES) {
        const tensor = await upload(type, dims, data);
        for (const [at, bad] of [
          [0, Number.NaN],
          [71, -Infinity],
          [size(dims) / 2 + 35, Infinity],
          [size(dims) - 1, Number.NaN],
        ] as const) {
          const wrong = data.slice();
          wrong[at] = bad;
          await tensor.write(narrow(wrong, type));
          await expect(device.quantize(tensor, options), `${bad} at ${at} of ${type}`).rejects.toMatchObject({
            code: 'ERR_NONFINITE',
            message: expect.stringContaining('tensor'),
          });
        }
        await tensor.write(narrow(data, type));
        await check(tensor, options, `${type}, after errors`);
        dispose(tensor);
      }
    });

    it('replays in a graph, for new numbers too, with the same bits each time', async () => {
      const dims = [3, 8, 700, 64];
      const tensor = await upload('float32', dims, unevenNumbers(dims, 11));
      await using graph = await device.capture((recorder) => recorder.quantize(tensor, options));
      await expectBits(graph.result, tensor, options, 'captured:');
      for (const seed of [12, 13]) {
        await tensor.write(unevenNumbers(dims, seed).map((x) => x * 10 ** (12 - seed)));
        await graph.replay({ repeats: 3 });
        await expectBits(graph.result, tensor, options, `replayed ${seed}:`);
      }
      const nan = unevenNumbers(dims, 14);
      nan[100_000] = Number.NaN;
      await tensor.write(nan);
      await expect(graph.replay()).rejects.toMatchObject({ code: 'ERR_NONFINITE' });
      await tensor.write(unevenNumbers(dims, 15));
      await graph.replay();
      await expectBits(graph.result, tensor, options, 'after an error:');
      const first = await device.empty('float32', graph.result.scales.dims as number[]);
      await first.write(graph.result.scales);
      const codes = await codesIn(graph.result.codes);
      for (let i = 0; i < 200; i++) {
        await graph.replay();
        const [a, b] = [graph.result.scales, first].map((scales) => scales.nativeSource(handle).buffer);
        expect(await addon.countDifferences(handle, a!, b!), `scales of replay ${i}`).toBe(0);
      }
      expect(firstDifference(await codesIn(graph.result.codes), codes)).toBe(-1);
      dispose(tensor, first);
    });

    it('gives its scratch memory back, and listens to a signal', async () => {
      const dims = [4, 500, 72];
      const tensor = await upload('float32', dims, unevenNumbers(dims, 17));
      const before = device.liveBytes();
      const made = await device.quantize(tensor, options);
      const floats = made.scales.size + (made.means?.size ?? 0);
      expect(device.liveBytes() - before).toBe(4 * 500 * 128 + 4 * floats);
      dispose(made);
      const reason = new Error('enough');
      await expect(device.quantize(tensor, { ...options, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
      const heard = await device.quantize(tensor, { ...options, signal: new AbortController().signal });
      await expectBits(heard, tensor, options);
      dispose(heard, tensor);
    });
  });

  it('refuses what smoothing takes out of float32, and only that', async () => {
    const data = Float32Array.from({ length: 4 * 8 }, (_, i) => (i === 3 ? 3.4e38 : i % 8 === 3 ? -3.4e38 : 1));
    const tensor = await upload('float32', [4, 8], data);
    await expect(device.quantize(tensor, { smoothK: true })).rejects.toMatchObject({ code: 'ERR_OVERFLOW' });
    await check(tensor, { granularity: 'channel' });
    await check(tensor, { granularity: 'tensor' });
    dispose(tensor);
  });

  it('smoothed keys attend as keys do that attention smooths itself', async () => {
    const dims = [1, 4, 333, 64];
    const tensor = await upload(
      'float32',
      dims,
      unevenNumbers(dims, 21).map((x) => Math.sign(x) * Math.abs(x) ** 0.3),
    );
    const [q, k] = [await device.quantize(tensor), await device.quantize(tensor, { smoothK: true })];
    const codes = { q: q.codes, k: k.codes, v: tensor, qScale: q.scales, kScale: k.scales };
    const inputs = { query: tensor, key: tensor, value: tensor };
    const got = await device.quantizedAttention(codes, { precision: 'half-int8' });
    const expected = await device.attention(inputs, { precision: 'half-int8', kernel: 'portable' });
    expect(firstDifference(await floatsIn(got.out), await floatsIn(expected.out))).toBe(-1);
    dispose(tensor, q, k, got.out, expected.out);
  });
});
