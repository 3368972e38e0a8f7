import { describe, expect, it } from 'vitest';
import { type MeasureRequest, measureVariant, VARIANTS } from '../src/experiments/measure-variant.js';

const request = {
  distribution: 'normal',
  shape: { heads: 2, queries: 32, keys: 512, headDim: 64 },
  causal: false,
} as const satisfies Omit<MeasureRequest, 'variant'>;

describe('measureVariant', () => {
  // Wide enough for any 512 keys: the finer bounds are the backends' tests.
  it.each([
    ['fp32', 0, 1e-5],
    ['flash-d', 1e-8, 1e-5],
    ['half-int8', 0.005, 0.0098],
    ['full-int8', 0.008, 0.0155],
    ['paper-int8', 0.015, 0.033],
    ['fp8-e4m3', 0.035, 0.06],
    ['fp8-e5m2', 0.07, 0.125],
    ['int4-qk', 0.1, 0.2],
  ] as const)('%s on normal inputs is off by %f to %f', async (variant, from, to) => {
    const measured = await measureVariant({ ...request, variant, backend: 'portable' });
    expect(measured.relativeL2).toBeGreaterThanOrEqual(from);
    expect(measured.relativeL2).toBeLessThan(to);
    expect(measured.cosine).toBeGreaterThan(0.97);
    expect(measured.maxError).toBeGreaterThan(0);
    expect(measured.mre).toBeGreaterThan(0);
    const emulated = variant === 'flash-d' || variant.startsWith('fp8');
    expect(measured.computedBy).toBe(emulated ? 'emulated' : 'portable');
    expect(measured.ms === null).toBe(emulated);
  });

  it('says of every variant what holds of sinks and of causal inputs', async () => {
    const sink = { ...request, distribution: 'sink', causal: true, backend: 'portable' } as const;
    const errors: Record<string, number> = {};
    for (const variant of VARIANTS) errors[variant] = (await measureVariant({ ...sink, variant })).relativeL2;
    expect(errors['paper-int8']! / errors['full-int8']!).toBeGreaterThan(5);
    expect(errors['fp8-e5m2-stored']!).toBeGreaterThan(errors['fp8-e5m2']!);
    expect(errors['full-int8']!).toBeLessThan(errors['fp8-e4m3']!);
  });

  it('gives the same figures again, and others for another seed', async () => {
    const measure = (seed: number) => measureVariant({ ...request, seed, variant: 'full-int8', backend: 'portable' });
    const [once, again, other] = [await measure(1), await measure(1), await measure(2)];
    expect(again.relativeL2).toBe(once.relativeL2);
    expect(other.relativeL2).not.toBe(once.relativeL2);
  });

  it.each([
    [{ variant: 'int2' }, 'ERR_ARG_RANGE', /variant to be one of/],
    [{ distribution: 'cauchy' }, 'ERR_ARG_RANGE', /distribution to be one of/],
    [{ shape: { ...request.shape, keys: 0 } }, 'ERR_ARG_RANGE', /shape.keys to be in/],
    [{ shape: { ...request.shape, headDim: 65 } }, 'ERR_', /head/i],
    [{ shape: { ...request.shape, kvHeads: 3, heads: 4 } }, 'ERR_SHAPE', /multiple of kvHeads/],
    [{ shape: { heads: 128, queries: 2 ** 17, keys: 2 ** 17, headDim: 256 } }, 'ERR_ARG_RANGE', /at most/],
    [{ backend: 'tpu' }, 'ERR_ARG_RANGE', /backend to be one of/],
  ])('refuses %o', async (wrong, code, message) => {
    const bad = { ...request, variant: 'fp32', ...wrong } as MeasureRequest;
    await expect(measureVariant(bad)).rejects.toThrow(
      expect.objectContaining({ code: expect.stringContaining(code), message: expect.stringMatching(message) }),
    );
  });

  it('stops when told to', async () => {
    const large = { ...request, shape: { heads: 8, queries: 512, keys: 4096, headDim: 64 }, seed: 9 };
    const signal = AbortSignal.timeout(50);
    await expect(measureVariant({ ...large, variant: 'flash-d', signal })).rejects.toMatchObject({
      name: 'TimeoutError',
    });
  });
});
