import type { TensorData } from '@int-flash/ops';
import { seededNormal, seededUniform } from '@int-flash/reference';

/** `count` numbers of N(0, 1) from `seed`. */
export function normalNumbers(count: number, seed: number): Float32Array {
  const draw = seededNormal(seededUniform(seed));
  const numbers = new Float32Array(count);
  for (let i = 0; i < count; i++) numbers[i] = draw();
  return numbers;
}

/** `count` elements out of fewer, again and again: with a period that no row divides, rows by the million that are all different. */
export function repeated<T extends TensorData>(chunk: T, count: number): T {
  const all = new (chunk.constructor as new (length: number) => T)(count);
  for (let at = 0; at < count; at += chunk.length)
    all.set(chunk.subarray(0, Math.min(chunk.length, count - at)) as never, at);
  return all;
}

/** Rows of `dims` whose channels are of very different size and offset, every fifth of them zero. */
export function unevenNumbers(dims: readonly number[], seed: number): Float32Array {
  const dim = dims.at(-1)!;
  const factors = Array.from({ length: dim }, (_, channel) => (channel % 5 === 4 ? 0 : 10 ** ((channel % 7) - 4)));
  const numbers = normalNumbers(
    dims.reduce((a, b) => a * b, 1),
    seed,
  );
  for (let i = 0; i < numbers.length; i++) {
    const channel = i % dim;
    numbers[i] = channel % 5 === 4 ? 0 : (numbers[i]! + (channel % 3) * 2) * factors[channel]!;
  }
  return numbers;
}
