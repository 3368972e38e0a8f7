import { IntFlashError } from '@int-flash/ops';

/** Shape of a generated problem, HND: q [batch, heads, queries, headDim], k and v [batch, kvHeads, keys, headDim]. */
export interface InputShape {
  readonly batch?: number;
  readonly heads: number;
  readonly kvHeads?: number;
  readonly queries: number;
  readonly keys: number;
  readonly headDim: number;
  readonly headDimV?: number;
}

export interface AttentionInputs {
  readonly query: { readonly type: 'float32'; readonly dims: readonly number[]; readonly data: Float32Array };
  readonly key: { readonly type: 'float32'; readonly dims: readonly number[]; readonly data: Float32Array };
  readonly value: { readonly type: 'float32'; readonly dims: readonly number[]; readonly data: Float32Array };
}

/**
 * The inputs that accuracy is judged on.
 * - `normal`: N(0, 1). `uniform`: U(0, 1), as the paper's script draws; `centred`: U(-0.5, 0.5), as its text says.
 * - `sharp`: normal, with queries times 3.
 * - `kbias`: K with large offsets in a tenth of its channels, as language models' keys have.
 * - `vout`: V with a twentieth of its channels 16 times larger.
 * - `sink`, `sinkall`: one key, or two, that take most of the weight and whose values are small: attention sinks.
 */
export const INPUT_FAMILIES = ['normal', 'uniform', 'centred', 'sharp', 'kbias', 'vout', 'sink', 'sinkall'] as const;
export type InputFamily = (typeof INPUT_FAMILIES)[number];

/** Uniform numbers in [0, 1) from a 32-bit seed (mulberry32): the same on every machine. */
export function seededUniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Standard normal numbers (Box-Muller) from `uniform`. */
export function seededNormal(uniform: () => number): () => number {
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

/** Makes one problem of `family`; the same seed gives the same numbers everywhere. */
export function makeInputs(family: InputFamily, shape: InputShape, seed = 1): AttentionInputs {
  if (!INPUT_FAMILIES.includes(family)) {
    throw new IntFlashError(
      'ERR_ARG_RANGE',
      `Expected family to be one of ${INPUT_FAMILIES.join(', ')}, got ${family}`,
    );
  }
  const { batch = 1, heads, kvHeads = heads, queries, keys, headDim, headDimV = headDim } = shape;
  const uniform = seededUniform(seed);
  const normal = seededNormal(uniform);
  const draw = family === 'uniform' ? uniform : family === 'centred' ? () => uniform() - 0.5 : normal;
  const fill = (count: number) => Float32Array.from({ length: count }, draw);
  const q = fill(batch * heads * queries * headDim);
  const k = fill(batch * kvHeads * keys * headDim);
  const v = fill(batch * kvHeads * keys * headDimV);
  if (family === 'sharp') for (let i = 0; i < q.length; i++) q[i]! *= 3;
  for (let head = 0; head < batch * kvHeads; head++) {
    const keyRows = k.subarray(head * keys * headDim, (head + 1) * keys * headDim);
    const valueRows = v.subarray(head * keys * headDimV, (head + 1) * keys * headDimV);
    const channels = (dim: number, share: number, draw: () => number, otherwise: number) =>
      Float64Array.from({ length: dim }, (_, d) => (uniform() < share || d === 0 ? draw() : otherwise)); // channel 0 always, so small dims have one
    if (family === 'kbias')
      addChannels(
        keyRows,
        channels(headDim, 0.1, () => 8 * normal(), 0),
      );
    if (family === 'vout')
      scaleChannels(
        valueRows,
        channels(headDimV, 0.05, () => 16, 1),
      );
    if (family === 'sink' || family === 'sinkall') {
      addChannels(
        keyRows,
        channels(headDim, 0.05, () => (family === 'sink' ? 6 : 4) * normal(), 0),
      );
      if (family === 'sinkall')
        scaleChannels(
          valueRows,
          channels(headDimV, 0.03, () => 7, 1),
        );
      // Queries lean towards a direction of norm sqrt(headDim), and the sink keys lie along it.
      const lean = Float64Array.from({ length: headDim }, normal);
      const norm = Math.sqrt(lean.reduce((sum, x) => sum + x * x, 0) / headDim);
      const group = heads / kvHeads;
      const queryRows = q.subarray(head * group * queries * headDim, (head + 1) * group * queries * headDim);
      for (let i = 0; i < queryRows.length; i++) queryRows[i]! += (0.7 * lean[i % headDim]!) / norm;
      const sinks =
        family === 'sink'
          ? [{ key: 0, along: 1.1, value: 0.05 }]
          : [
              { key: 0, along: 0.9, value: 0.02 },
              { key: 7, along: 0.7, value: 0.05 },
            ];
      for (const { key, along, value } of sinks) {
        if (key >= keys) continue;
        for (let d = 0; d < headDim; d++) keyRows[key * headDim + d] = (along * lean[d]!) / norm;
        for (let d = 0; d < headDimV; d++) valueRows[key * headDimV + d]! *= value;
      }
    }
  }
  const tensor = (data: Float32Array, ...dims: number[]) => ({ type: 'float32' as const, dims, data });
  return {
    query: tensor(q, batch, heads, queries, headDim),
    key: tensor(k, batch, kvHeads, keys, headDim),
    value: tensor(v, batch, kvHeads, keys, headDimV),
  };
}

function addChannels(rows: Float32Array, offsets: Float64Array): void {
  for (let i = 0; i < rows.length; i++) rows[i]! += offsets[i % offsets.length]!;
}

function scaleChannels(rows: Float32Array, factors: Float64Array): void {
  for (let i = 0; i < rows.length; i++) rows[i]! *= factors[i % factors.length]!;
}
