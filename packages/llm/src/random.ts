/**
 * xoshiro128** (Blackman and Vigna, 2018), seeded through splitmix32: the same numbers for the same seed on every machine.
 * Four 32-bit words of state, period 2^128 − 1. Not for secrets.
 */
export class Random {
  readonly #state = new Uint32Array(4);

  /** @param seed An integer in [0, 2^53). */
  constructor(seed: number) {
    let low = seed >>> 0;
    const high = Math.floor(seed / 2 ** 32);
    for (let i = 0; i < 4; i++) {
      low = (low + 0x9e3779b9) >>> 0;
      let word = i === 1 ? low ^ mix(high) : low; // mix(0) is 0, so seeds below 2^32 need no case of their own
      word = mix(word);
      this.#state[i] = word;
    }
    if (this.#state.every((word) => word === 0)) this.#state[0] = 1; // the one state that never leaves itself
  }

  /** Uniform on the multiples of 2^-53 in [0, 1). */
  next(): number {
    const high = this.#word() >>> 5;
    const low = this.#word() >>> 6;
    return (high * 2 ** 26 + low) / 2 ** 53;
  }

  #word(): number {
    const s = this.#state;
    const result = Math.imul(rotateLeft(Math.imul(s[1]!, 5), 7), 9) >>> 0;
    const shifted = s[1]! << 9;
    s[2]! ^= s[0]!;
    s[3]! ^= s[1]!;
    s[1]! ^= s[2]!;
    s[0]! ^= s[3]!;
    s[2]! ^= shifted;
    s[3] = rotateLeft(s[3]!, 11);
    return result;
  }
}

function rotateLeft(word: number, bits: number): number {
  return ((word << bits) | (word >>> (32 - bits))) >>> 0;
}

/** splitmix32's finaliser: every input bit moves every output bit. */
function mix(word: number): number {
  let z = word;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return (z ^ (z >>> 15)) >>> 0;
}
