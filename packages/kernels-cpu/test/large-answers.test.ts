import {
  type AttentionPlan,
  type Backend,
  IntFlashError,
  judgeAttention,
  judgeQuantizedAttention,
  type QuantizedAttentionPlan,
} from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import { createCpuBackend, supportedIsas } from '../src/cpu-backend.js';
import { createPortableBackend } from '../src/portable-backend.js';

// Judged plans, made larger afterwards than a judge lets pass: 2^53 bytes and more are beyond the addresses that any machine has, whatever its
// memory and its Node.js.
const dims = [1, 1, 2, 8];
const floats = { type: 'float32', dims, data: new Float32Array(16).fill(1) };
const plain = judgeAttention({ query: floats, key: floats, value: floats }, { returnLse: true });
const codes = { type: 'int8', dims, data: new Int8Array(16).fill(1) };
const scale = { type: 'float32', dims: [1, 1, 2], data: new Float32Array(2).fill(1) };
const coded = judgeQuantizedAttention({ q: codes, k: codes, v: codes, qScale: scale, kScale: scale, vScale: scale });
const spans = (lengths: object) => [{ ...plain.sequences[0]!, ...lengths }];

const refusal = (what: string) => ({
  code: 'ERR_OOM',
  where: 'host',
  bytes: expect.any(Number),
  message: expect.stringContaining(what),
});

async function expectRefused(backend: Backend, change: object, what: string): Promise<void> {
  const calls: [() => unknown, () => Promise<unknown>][] = [
    [
      () => backend.attentionSync({ ...plain, ...change } as AttentionPlan),
      () => backend.attention({ ...plain, ...change } as AttentionPlan),
    ],
    [
      () => backend.quantizedAttentionSync({ ...coded, ...change } as QuantizedAttentionPlan),
      () => backend.quantizedAttention({ ...coded, ...change } as QuantizedAttentionPlan),
    ],
  ];
  const refused = { ...refusal(what), hint: expect.any(String) };
  for (const [sync, later] of calls) {
    expect(sync).toThrow(expect.objectContaining(refused));
    await expect(later()).rejects.toMatchObject(refused);
  }
}

describe.each([
  ['portable', createPortableBackend],
  ...(supportedIsas().length > 0 ? [['cpu', createCpuBackend] as const] : []),
] as const)('%s, where the host has no array of that length', (_name, create) => {
  const backend = create();

  it('refuses answers by ERR_OOM', async () => {
    await expectRefused(backend, { outDims: [2 ** 25, 2 ** 26] }, `${2 ** 53} bytes of host memory for the answer`);
    await expectRefused(backend, { returnLse: true, lseDims: [2 ** 51] }, `${2 ** 53} bytes of host memory for lse`);
  });

  it('refuses a linear layer’s answer by ERR_OOM, once the input fits', () => {
    const linear = backend.createLinear({ type: 'fp32', rows: 4, cols: 8, weights: new Float32Array(32) });
    for (const tokens of [2 ** 50, -1])
      expect(() => linear.forwardSync(new Float32Array(8), tokens)).toThrow(
        expect.objectContaining({ code: 'ERR_SHAPE', message: expect.stringContaining('input') }),
      );
    linear.dispose();
    expect(() => linear.forwardSync(new Float32Array(8), 1)).toThrow(expect.objectContaining({ code: 'ERR_DISPOSED' }));
  });

  it('takes the answer of a short query to a cache from its query', () => {
    const cache = {
      type: 'fp32' as const,
      kvHeads: 1,
      headDim: 8,
      capacity: 4,
      length: 2,
      keys: new Float32Array(32),
      values: new Float32Array(32).fill(1),
    };
    const args = { query: new Float32Array(8), tokens: 1, heads: 1, cache, scale: 1, windowLeft: Infinity, softcap: 0 };
    expect(backend.cacheAttentionSync(args)).toEqual(new Float32Array(8).fill(1));
    for (const tokens of [2 ** 50, -1])
      expect(() => backend.cacheAttentionSync({ ...args, tokens })).toThrow(IntFlashError);
  });
});

describe('portable alone, which gathers rows and takes layers without columns', () => {
  const backend = createPortableBackend();

  it('refuses to gather rows by ERR_OOM', async () => {
    await expectRefused(backend, { sequences: spans({ kLen: 2 ** 50 }) }, 'bytes of host memory for key rows');
    await expectRefused(backend, { sequences: spans({ qLen: 2 ** 50 }) }, 'bytes of host memory for query rows');
  });

  it('refuses the answer of a layer without columns, however long, by ERR_OOM', () => {
    const linear = backend.createLinear({ type: 'fp32', rows: 1, cols: 0, weights: new Float32Array(0) });
    expect(() => linear.forwardSync(new Float32Array(0), 2 ** 51)).toThrow(
      expect.objectContaining(refusal(`${2 ** 53} bytes of host memory for the answer`)),
    );
  });
});
