import { type FloatType, fromFloat32, judgeAttention, judgeQuantizedAttention, toFloat32 } from '@int-flash/ops';
import {
  encodePerTokenInt4,
  quantizePerTensorInt8,
  quantizePerTokenInt8,
  quantizeTokenLevelV,
  smoothK,
} from '@int-flash/quant';
import { type InputFamily, int8Attention, makeInputs } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import { cudaStatus } from '../src/cuda-status.js';
import type { CudaTensor } from '../src/cuda-tensor.js';
import { useGpuDevice } from './gpu-device.js';
import { expectSameBits, firstDifference } from './same-bits.js';

// One forward kernel serves the codes that the device makes of floats and those that it is given, so equal bits of the answer mean equal codes, scales and weights.
const PRECISIONS = ['full-int8', 'int4-qk', 'paper-int8'] as const;
const TYPES = ['float32', 'float16', 'bfloat16'] as const;
type FusedPrecision = (typeof PRECISIONS)[number];
type Inputs = ReturnType<typeof makeInputs>;

/** A tensor on the host, judged like one of the device. */
interface HostTensor<T> {
  readonly type: string;
  readonly dims: readonly number[];
  readonly data: T;
}
interface Codes {
  readonly q: HostTensor<Int8Array>;
  readonly k: HostTensor<Int8Array>;
  readonly v: HostTensor<Int8Array>;
  readonly qScale: HostTensor<Float32Array>;
  readonly kScale: HostTensor<Float32Array>;
  readonly vScale: HostTensor<Float32Array>;
  readonly vChannelScale?: HostTensor<Float32Array>;
}

const codesOf = (dims: readonly number[], data: Int8Array) => ({ type: 'int8', dims, data });
const scalesOf = (dims: readonly number[], data: Float32Array) => ({ type: 'float32', dims, data });

/** The codes of `quant`, head by head, as docs/arithmetic.md has them. @param isSmooth Whether K's means are taken off first. */
function quantsCodes({ query, key, value }: Inputs, precision: FusedPrecision, isSmooth: boolean): Codes {
  const headDim = key.dims[3]!;
  const keyRows = key.data.slice();
  if (isSmooth) heads(key, (rows, head) => keyRows.set(smoothK(rows, headDim).values, head * rows.length));
  const [q, k] = [query.data, keyRows].map((rows) => {
    if (precision === 'int4-qk') return encodePerTokenInt4(rows, headDim);
    const { values, scales } = quantizePerTokenInt8(rows, headDim);
    return { codes: values, scales };
  });
  const scores = {
    q: codesOf(query.dims, q!.codes),
    k: codesOf(key.dims, k!.codes),
    qScale: scalesOf(query.dims.slice(0, 3), q!.scales),
    kScale: scalesOf(key.dims.slice(0, 3), k!.scales),
  };
  return { ...scores, ...valueCodes(value, precision) };
}

function valueCodes(value: Inputs['value'], precision: FusedPrecision) {
  const [batch, kvHeads, tokens, dim] = value.dims as [number, number, number, number];
  const all = new Int8Array(value.data.length);
  const gather = (head: number, codes: Int8Array) => all.set(codes, head * tokens * dim);
  if (precision === 'paper-int8') {
    const scales = heads(value, (rows, head) => {
      const { values, scale } = quantizePerTensorInt8(rows);
      gather(head, values);
      return scale;
    });
    return { v: codesOf(value.dims, all), vScale: scalesOf([batch, kvHeads], Float32Array.from(scales)) };
  }
  const weights = new Float32Array(batch * kvHeads * tokens);
  const channels = new Float32Array(batch * kvHeads * dim);
  heads(value, (rows, head) => {
    const made = quantizeTokenLevelV(rows, dim);
    gather(head, made.values);
    weights.set(made.tokenWeights, head * tokens);
    channels.set(made.channelScales, head * dim);
  });
  return {
    v: codesOf(value.dims, all),
    vScale: scalesOf([batch, kvHeads, tokens], weights),
    vChannelScale: scalesOf([batch, kvHeads, dim], channels),
  };
}

/** What `of` says of each [tokens, dim] of a tensor [batch, heads, tokens, dim]. */
function heads<T>({ dims, data }: Inputs['key'], of: (rows: Float32Array, head: number) => T): T[] {
  const size = dims[2]! * dims[3]!;
  return Array.from({ length: dims[0]! * dims[1]! }, (_, head) =>
    of(data.subarray(head * size, (head + 1) * size), head),
  );
}

/** Of 16 bits the numbers that are left: what the codes are of. */
function given(inputs: Inputs, type: FloatType): Inputs {
  const rounded = ({ dims, data }: Inputs['key']) => ({
    type: 'float32' as const,
    dims,
    data: type === 'float32' ? data : toFloat32(fromFloat32(data, type), type),
  });
  return { query: rounded(inputs.query), key: rounded(inputs.key), value: rounded(inputs.value) };
}

const shape = { batch: 2, heads: 4, kvHeads: 2, queries: 70, keys: 333, headDim: 64 };
type Case = [string, Partial<typeof shape> & { headDimV?: number }, object, InputFamily];
const cases: Case[] = [
  ['GQA', {}, {}, 'normal'],
  ['causal', { headDim: 128 }, { isCausal: true, causalAlignment: 'bottom-right' }, 'kbias'],
  ['softcap and window', { headDim: 40 }, { softcap: 3, windowSize: [50, 20] }, 'normal'],
  ['values wider', { headDim: 24, headDimV: 200 }, { scale: 0.3 }, 'sink'],
  ['values narrower', { headDim: 256, headDimV: 72 }, {}, 'vout'],
  ['head dim 8, one key', { headDim: 8, keys: 1 }, {}, 'normal'],
];

const made = new Map<string, Inputs>();
/** A case's inputs, which precisions have together. */
function inputsOf(type: FloatType, [name, change, , family]: Case): Inputs {
  const key = `${type} ${name}`;
  const inputs = made.get(key) ?? given(makeInputs(family, { ...shape, ...change }, 51), type);
  made.set(key, inputs);
  return inputs;
}

describe.skipIf(!cudaStatus().available).each(PRECISIONS)('%s of floats by the portable kernel', (precision) => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  const forward = precision === 'paper-int8' ? precision : 'full-int8'; // of codes; those of INT4 are smaller ones
  const smoothing = precision === 'paper-int8' ? [false] : [true, false];

  /** Output and log-sum-exp for codes, on the host. */
  async function attendCodes(codes: Codes, options: object) {
    const on = Object.fromEntries(
      await Promise.all(
        Object.entries(codes).map(async ([name, tensor]) => [name, await device.upload(tensor)] as const),
      ),
    ) as unknown as Record<keyof Codes, CudaTensor>;
    const { out, lse } = await device.quantizedAttention(on, { ...options, precision: forward, returnLse: true });
    return read([out, lse!], Object.values(on));
  }

  async function attendFloats(inputs: Inputs, type: FloatType, options: object) {
    const [query, key, value] = await Promise.all(
      [inputs.query, inputs.key, inputs.value].map(({ dims, data }) =>
        device.upload({ type, dims: [...dims], data: type === 'float32' ? data : fromFloat32(data, type) }),
      ),
    );
    const { out, lse, kernel } = await device.attention(
      { query: query!, key: key!, value: value! },
      { ...options, precision, kernel: 'portable', returnLse: true },
    );
    expect(kernel).toBe('portable');
    return read([out, lse!], [query!, key!, value!]);
  }

  async function read(answer: CudaTensor[], operands: CudaTensor[]) {
    const [out, lse] = await Promise.all(answer.map(async (tensor) => (await tensor.download()).data as Float32Array));
    for (const tensor of [...answer, ...operands]) tensor.dispose();
    return { out: out!, lse: lse! };
  }

  describe.each(smoothing)('smoothK %s', (isSmooth) => {
    it.each(TYPES.flatMap((type) => cases.map((one) => [type, ...one] as const)))(
      'has the bits of quant’s codes: %s, %s',
      async (type, ...one) => {
        const [inputs, options] = [inputsOf(type, one), one[2]];
        const hasMeans = isSmooth && !('softcap' in options);
        const codes = quantsCodes(inputs, precision, hasMeans);
        const [ours, theirs] = [
          await attendFloats(inputs, type, { ...options, smoothK: isSmooth }),
          await attendCodes(codes, options),
        ];
        expect(theirs.out.some((x) => x !== 0)).toBe(true);
        expectSameBits(ours.out, theirs.out, 'output');
        // With means the log-sum-exp of floats has a part that codes know nothing of.
        if (!hasMeans) expectSameBits(ours.lse, theirs.lse, 'log-sum-exp');
      },
    );
  });

  // What the comparison above takes for granted.
  it('is told by each code, scale and weight', async () => {
    const inputs = makeInputs('normal', { heads: 1, queries: 3, keys: 140, headDim: 64 }, 52);
    const codes = quantsCodes(inputs, precision, false);
    const expected = await attendCodes(codes, {});
    for (const [name, tensor] of Object.entries(codes)) {
      const data = tensor.data.slice();
      data[0] = data instanceof Int8Array ? data[0]! - Math.sign(data[0]! || -1) : data[0]! * 1.5; // codes stay in their range
      const changed = await attendCodes({ ...codes, [name]: { ...tensor, data } }, {});
      expect(firstDifference(changed.out, expected.out), name).toBeGreaterThanOrEqual(0);
    }
  });
});

describe.skipIf(!cudaStatus().available)('quant’s codes, as these tests make them', () => {
  it.each(PRECISIONS.flatMap((precision) => cases.map((one) => [precision, ...one] as const)))(
    'are those of the integer twin: %s, %s',
    (precision, _, change, options, family) => {
      const inputs = makeInputs(family, { ...shape, batch: 1, queries: 9, ...change }, 53);
      const codes = quantsCodes(inputs, precision, precision !== 'paper-int8' && !('softcap' in options));
      const forward = precision === 'paper-int8' ? precision : 'full-int8';
      const twin = int8Attention(judgeAttention(inputs, { ...options, precision, smoothK: true }));
      expectSameBits(int8Attention(judgeQuantizedAttention(codes, { ...options, precision: forward })).out, twin.out);
    },
  );
});
