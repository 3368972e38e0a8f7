import type { ModelConfig } from './model-config.js';

/** Arrays of a step over some tokens. */
export interface StepBuffers {
  readonly tokens: number;
  /** A row a token: query heads, key heads, value heads. */
  readonly qkv: Float32Array;
  readonly query: Float32Array;
  /** What attention makes of the values. */
  readonly mixed: Float32Array;
  /** The feed-forward's middle. */
  readonly widened: Float32Array;
}

/** A step's arrays, and the larger ones that they were cut from. */
export interface TakenBuffers {
  readonly whole: StepBuffers;
  readonly cut: StepBuffers;
}

/** Keeps what a step used for the next: new arrays would be zeroed, and collected. */
export class StepMemory {
  readonly #config: ModelConfig;
  #spare: TakenBuffers | undefined;

  constructor(config: ModelConfig) {
    this.#config = config;
  }

  /** Arrays for a step of so many tokens. They are the taker's alone, since steps may run interleaved. */
  take(tokens: number): TakenBuffers {
    const spare = this.#spare;
    this.#spare = undefined;
    if (spare?.cut.tokens === tokens) return spare;
    const { heads, kvHeads, headDim, intermediateSize } = this.#config;
    const buffersOf = (array: (width: number, name: Exclude<keyof StepBuffers, 'tokens'>) => Float32Array) => ({
      tokens,
      qkv: array((heads + 2 * kvHeads) * headDim, 'qkv'),
      query: array(heads * headDim, 'query'),
      mixed: array(heads * headDim, 'mixed'),
      widened: array(intermediateSize, 'widened'),
    });
    const whole =
      spare && spare.whole.tokens >= tokens ? spare.whole : buffersOf((width) => new Float32Array(tokens * width));
    return { whole, cut: buffersOf((width, name) => rowsOf(whole[name], width, 0, tokens)) };
  }

  giveBack(buffers: TakenBuffers): void {
    this.#spare = buffers;
  }
}

/** Rows [from, to) of an array of rows; the array itself when that is all of them. */
export function rowsOf(values: Float32Array, width: number, from: number, to: number): Float32Array {
  return from === 0 && to * width === values.length ? values : values.subarray(from * width, to * width);
}
