import { judgeAttention } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import {
  decodeFp8,
  encodeFp8,
  flashDAttention,
  fp8Attention,
  makeInputs,
  relativeL2,
  runStepsInSlices,
  softmaxAttention,
  softmaxAttentionSteps,
} from '../src/index.js';

/** 32 queries stand for all: rows are alike, and the error is a mean over them. */
const problem = (headDim: number) => makeInputs('normal', { heads: 2, queries: 32, keys: 4096, headDim }, 3);

describe('fp8Attention', () => {
  // Measured on an H200 with the kernels themselves; the emulation knows nothing of these figures.
  it.each([
    ['e4m3', 64, 'float16', 0.0536],
    ['e4m3', 128, 'float16', 0.0524],
    ['e5m2', 64, 'e5m2', 0.119],
    ['e5m2', 128, 'e5m2', 0.1168],
  ] as const)('%s, head dim %i, is as far off as the kernel', (format, headDim, output, kernel) => {
    const plan = judgeAttention(problem(headDim));
    const ratio = relativeL2(fp8Attention(plan, format, { output }).out, softmaxAttention(plan).out) / kernel;
    // 64 rows leave about 3% of chance; a tensor core's narrow sums, which are not emulated, can only add to the kernel's error.
    expect(ratio).toBeGreaterThan(0.92);
    expect(ratio).toBeLessThan(1.03);
  });

  it('gives the rounded value for a single key, and stores what it was told to', () => {
    const plan = judgeAttention(makeInputs('normal', { heads: 1, queries: 2, keys: 1, headDim: 8 }, 4));
    const { out } = fp8Attention(plan, 'e5m2');
    const rounded = [...(plan.value.data as Float32Array)].map((x) => decodeFp8(encodeFp8(x, 'e5m2'), 'e5m2'));
    expect([...out]).toEqual([...rounded, ...rounded]);
    const scaled = [...fp8Attention(plan, 'e4m3', { output: 'e4m3' }).out];
    for (const x of scaled) expect(decodeFp8(encodeFp8(x, 'e4m3'), 'e4m3')).toBe(x);
  });

  it('keeps the shape, the mask and rows without a key of the plan', () => {
    const inputs = makeInputs('sharp', { heads: 4, kvHeads: 2, queries: 9, keys: 7, headDim: 16, headDimV: 8 });
    const plan = judgeAttention(inputs, { isCausal: true, causalAlignment: 'bottom-right' });
    const [fp8, exact] = [fp8Attention(plan, 'e4m3'), softmaxAttention(plan)];
    expect([...fp8.lse].map(Number.isFinite)).toEqual([...exact.lse].map(Number.isFinite));
    expect(fp8.out.subarray(0, 16).every((x) => x === 0)).toBe(true);
    expect(relativeL2(fp8.out, exact.out)).toBeLessThan(0.1);
  });
});

describe('flashDAttention in float32', () => {
  it('is off by float32 rounding, and by nothing else', () => {
    const plan = judgeAttention(makeInputs('normal', { heads: 1, queries: 16, keys: 2048, headDim: 64 }, 6));
    const error = relativeL2(flashDAttention(plan, 'float32').out, softmaxAttention(plan).out);
    expect(error).toBeGreaterThan(2 ** -24);
    expect(error).toBeLessThan(3e-5); // a float32 model of 2,048 keys in numpy came to 1e-6 … 1.1e-5
  });
});

describe('runStepsInSlices', () => {
  it('gives what the call in one go gives, and lets others have their turn', async () => {
    const plan = judgeAttention(makeInputs('normal', { heads: 2, queries: 64, keys: 1024, headDim: 64 }));
    let turns = 0;
    const count = setInterval(() => turns++, 0);
    const { out } = await runStepsInSlices(softmaxAttentionSteps(plan));
    clearInterval(count);
    expect(out).toEqual(softmaxAttention(plan).out);
    expect(turns).toBeGreaterThan(0);
  });

  it('ends with the reason of the signal', async () => {
    const plan = judgeAttention(makeInputs('normal', { heads: 8, queries: 256, keys: 4096, headDim: 64 }));
    const controller = new AbortController();
    const work = runStepsInSlices(softmaxAttentionSteps(plan), controller.signal);
    controller.abort(new Error('enough'));
    await expect(work).rejects.toThrow('enough');
  });
});
