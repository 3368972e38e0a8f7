import type { DecoderLayer, HostLayerShape, HostLayerStep, Linear } from '@int-flash/ops';
import { seededNormal, seededUniform } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import { cpuStatus, createCpuBackend, createPortableBackend } from '../src/index.js';

const SHAPE: HostLayerShape = { heads: 2, kvHeads: 1, headDim: 8, scale: 0.35, epsilon: 1e-5, half: 4 };
const HIDDEN = 16;

// What a layer computes, llm's host-layers.test.ts holds to its steps.
describe.skipIf(!cpuStatus().available)('a decoder layer of the native backend', () => {
  const backend = createCpuBackend();
  const normal = seededNormal(seededUniform(3));
  const numbers = (length: number) => Float32Array.from({ length }, () => normal());
  const linear = (rows: number, cols: number, of = backend) =>
    of.createLinear({ type: 'fp32', rows, cols, weights: numbers(rows * cols) });
  const gain = { gain: new Float32Array(HIDDEN).fill(1), bias: undefined };
  const parts = (): DecoderLayer & Record<'qkv' | 'attentionOutput' | 'mlpUp' | 'mlpDown', Linear> => ({
    attentionNorm: gain,
    mlpNorm: gain,
    queryNorm: undefined,
    keyNorm: undefined,
    windowLeft: Infinity,
    qkv: linear(32, HIDDEN),
    attentionOutput: linear(HIDDEN, 16),
    mlpUp: linear(48, HIDDEN),
    mlpDown: linear(HIDDEN, 24),
  });
  const step = (keyShift = new Float32Array(8)): HostLayerStep => ({
    hidden: numbers(2 * HIDDEN),
    tokens: 2,
    rows: new Float32Array(64),
    cos: numbers(20),
    sin: numbers(20),
    cache: {
      type: 'int8',
      kvHeads: 1,
      headDim: 8,
      capacity: 64,
      length: 3,
      pages: Int32Array.of(0),
      keys: new Int8Array(512),
      values: new Int8Array(512),
      keyScales: new Float32Array(64).fill(1),
      valueScales: new Float32Array(64).fill(1),
    },
    keyShift,
    largestValueScale: new Float32Array(1),
  });

  it('says which keys and values are not finite, and leaves the rest as it was', () => {
    const layer = backend.createHostLayer!(parts(), SHAPE)!;
    const good = step();
    const before = good.hidden.slice();
    expect(layer.stepSync(good)).toBe(true);
    expect(good.hidden).not.toEqual(before);
    const bad = step(new Float32Array(8).fill(Infinity));
    const kept = bad.hidden.slice();
    expect(layer.stepSync(bad)).toBe(false);
    expect(bad.hidden).toEqual(kept);
    expect(bad.rows.some((x) => x !== 0)).toBe(true);
    layer.dispose();
  });

  it('refuses layers that do not fit together, and those that were disposed', () => {
    const made = parts();
    expect(() => backend.createHostLayer!({ ...made, mlpDown: linear(HIDDEN, 23) }, SHAPE)).toThrowError(
      expect.objectContaining({ code: 'ERR_SHAPE', message: expect.stringContaining('mlpUp of 46 rows') }),
    );
    const layer = backend.createHostLayer!(made, SHAPE)!;
    made.mlpUp.dispose();
    const unused = expect.objectContaining({ code: 'ERR_DISPOSED' });
    expect(() => layer.stepSync(step())).toThrowError(unused);
    layer.dispose();
    layer.dispose();
    expect(() => layer.stepSync(step())).toThrowError(unused);
  });

  it('is none of linear layers that lie elsewhere, or with norms of heads', () => {
    const made = parts();
    expect(
      backend.createHostLayer!({ ...made, qkv: linear(32, HIDDEN, createPortableBackend()) }, SHAPE),
    ).toBeUndefined();
    expect(backend.createHostLayer!({ ...made, queryNorm: new Float32Array(8) }, SHAPE)).toBeUndefined();
    made.qkv.dispose();
    expect(backend.createHostLayer!(made, SHAPE)).toBeUndefined();
  });

  it('gives its memory back', () => {
    const before = backend.liveBytes();
    const made = parts();
    const layer = backend.createHostLayer!(made, SHAPE)!;
    for (const part of [made.qkv, made.attentionOutput, made.mlpUp, made.mlpDown]) part.dispose();
    expect(backend.liveBytes()).toBeGreaterThan(before);
    layer.dispose();
    expect(backend.liveBytes()).toBe(before);
  });
});
