import { type Backend, IntFlashError } from '@int-flash/ops';

/** How positions beyond the ones trained on are squeezed into the rotation. Names as in a Hugging Face config. */
export type RotaryScaling =
  | { readonly type: 'default' }
  | { readonly type: 'linear'; readonly factor: number }
  | {
      readonly type: 'llama3';
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositions: number;
    }
  | {
      readonly type: 'yarn';
      readonly factor: number;
      readonly originalMaxPositions: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      /** Multiplies cos and sin; absent = derived from `factor`. */
      readonly attentionFactor?: number | undefined;
      readonly mscale?: number | undefined;
      readonly mscaleAllDim?: number | undefined;
      /** Round the ramp's ends to whole dimensions. */
      readonly truncate: boolean;
    };

export interface RotaryShape {
  /** Channels of a head that turn; even. The rest pass unchanged. */
  readonly rotaryDim: number;
  readonly theta: number;
  readonly scaling: RotaryScaling;
}

/** Fewer cost less here than a call of the backend does. */
const NATIVE_TOKENS = 4;

/**
 * Rotary position embedding in the half-split form: channel d turns together with channel d + rotaryDim / 2.
 *
 * Frequencies and angles are rounded to float32 where the models' training code rounds them: at position 10⁵ the rounding moves
 * an angle by up to 4e-3 rad, and a model has learned the rounded one.
 * @see RoFormer, arXiv:2104.09864; YaRN, arXiv:2309.00071.
 */
export class Rotary {
  readonly #half: number;
  readonly #frequencies: Float32Array;
  readonly #factor: number;
  #cos = new Float32Array(0);
  #sin = new Float32Array(0);
  #positions = 0;

  constructor(shape: RotaryShape) {
    this.#half = shape.rotaryDim / 2;
    const { frequencies, factor } = scaledFrequencies(shape);
    this.#frequencies = frequencies;
    this.#factor = Math.fround(factor);
  }

  /**
   * Turns the heads of `tokens` consecutive positions.
   *
   * @param data   Row t of `heads · headDim` channels starts at `offset + t · stride`.
   * @param start  Position of the first row.
   * @param out    Where the turned heads go, [tokens, heads, headDim]; in place when absent.
   * @param backend Does it, to the same bits, where it has a way of its own and there are tokens enough for that to be faster.
   */
  rotate(
    data: Float32Array,
    tokens: number,
    heads: number,
    headDim: number,
    start: number,
    offset = 0,
    stride = heads * headDim,
    out?: Float32Array,
    backend?: Backend,
  ): void {
    this.#reach(start + tokens);
    const half = this.#half;
    const cos = this.#cos;
    const sin = this.#sin;
    if (tokens >= NATIVE_TOKENS && backend?.rotateHeadsSync) {
      backend.rotateHeadsSync({ rows: data, tokens, heads, headDim, offset, stride, start, half, cos, sin, out });
      return;
    }
    const into = out ?? data;
    for (let token = 0; token < tokens; token++) {
      const table = (start + token) * half;
      for (let head = 0; head < heads; head++) {
        const from = offset + token * stride + head * headDim;
        const to = out ? (token * heads + head) * headDim : from;
        for (let d = 0; d < half; d++) {
          const c = cos[table + d]!;
          const s = sin[table + d]!;
          const a = data[from + d]!;
          const b = data[from + half + d]!;
          into[to + d] = a * c - b * s;
          into[to + half + d] = b * c + a * s;
        }
        for (let d = 2 * half; out && d < headDim; d++) out[to + d] = data[from + d]!;
      }
    }
  }

  /** As {@link tables}, of so many positions or more. */
  atLeast(positions: number): { readonly cos: Float32Array; readonly sin: Float32Array } {
    this.#reach(positions);
    return { cos: this.#cos, sin: this.#sin };
  }

  /** Cosines and sines of the first `positions` positions, [positions, half], for a backend that turns heads itself. */
  tables(positions: number): { readonly half: number; readonly cos: Float32Array; readonly sin: Float32Array } {
    this.#reach(positions);
    const count = positions * this.#half;
    return { half: this.#half, cos: this.#cos.subarray(0, count), sin: this.#sin.subarray(0, count) };
  }

  #reach(positions: number): void {
    if (positions <= this.#positions) return;
    const half = this.#half;
    const from = this.#positions;
    const to = Math.max(positions, 2 * from, 64);
    const cos = new Float32Array(to * half);
    const sin = new Float32Array(to * half);
    cos.set(this.#cos);
    sin.set(this.#sin);
    for (let position = from; position < to; position++) {
      for (let d = 0; d < half; d++) {
        const angle = Math.fround(position * this.#frequencies[d]!);
        cos[position * half + d] = Math.fround(Math.cos(angle)) * this.#factor;
        sin[position * half + d] = Math.fround(Math.sin(angle)) * this.#factor;
      }
    }
    this.#cos = cos;
    this.#sin = sin;
    this.#positions = to;
  }
}

function scaledFrequencies({ rotaryDim, theta, scaling }: RotaryShape): { frequencies: Float32Array; factor: number } {
  const half = rotaryDim / 2;
  const frequencies = Float32Array.from(
    { length: half },
    (_, d) => 1 / Math.fround(theta ** Math.fround((2 * d) / rotaryDim)),
  );
  switch (scaling.type) {
    case 'default':
      return { frequencies, factor: 1 };
    case 'linear':
      return { frequencies: frequencies.map((frequency) => frequency / scaling.factor), factor: 1 };
    case 'llama3':
      return { frequencies: frequencies.map((frequency) => llama3Frequency(frequency, scaling)), factor: 1 };
    case 'yarn':
      return yarnFrequencies(frequencies, rotaryDim, theta, scaling);
    default:
      throw new IntFlashError(
        'ERR_UNSUPPORTED',
        `Expected a known rotary scaling, got ${(scaling as RotaryScaling).type}`,
      );
  }
}

/** Slow waves are stretched by `factor`, fast ones kept, those between blended. */
export function llama3Frequency(frequency: number, scaling: Extract<RotaryScaling, { type: 'llama3' }>): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositions } = scaling;
  const wavelength = (2 * Math.PI) / frequency;
  if (wavelength < originalMaxPositions / highFreqFactor) return frequency;
  if (wavelength > originalMaxPositions / lowFreqFactor) return frequency / factor;
  const blend = (originalMaxPositions / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return ((1 - blend) * frequency) / factor + blend * frequency;
}

function yarnFrequencies(
  frequencies: Float32Array,
  rotaryDim: number,
  theta: number,
  scaling: Extract<RotaryScaling, { type: 'yarn' }>,
): { frequencies: Float32Array; factor: number } {
  const { factor, originalMaxPositions, betaFast, betaSlow, truncate } = scaling;
  // The dimension whose wave makes `turns` turns over the original context.
  const dimension = (turns: number) =>
    (rotaryDim * Math.log(originalMaxPositions / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  let low = dimension(betaFast);
  let high = dimension(betaSlow);
  if (truncate) {
    low = Math.floor(low);
    high = Math.ceil(high);
  }
  low = Math.max(low, 0);
  high = Math.min(high, rotaryDim - 1);
  if (low === high) high += 0.001; // a ramp of no width would divide by zero
  const scaled = frequencies.map((frequency, d) => {
    const ramp = Math.min(Math.max((d - low) / (high - low), 0), 1);
    return (frequency / factor) * ramp + frequency * (1 - ramp);
  });
  return { frequencies: scaled, factor: scaling.attentionFactor ?? yarnAttentionFactor(scaling) };
}

function yarnAttentionFactor({ factor, mscale, mscaleAllDim }: Extract<RotaryScaling, { type: 'yarn' }>): number {
  const magnitude = (weight: number) => (factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1);
  return mscale && mscaleAllDim ? magnitude(mscale) / magnitude(mscaleAllDim) : magnitude(1);
}
