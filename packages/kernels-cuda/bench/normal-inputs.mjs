const FRESH = 1 << 20; // numbers of its own; larger tensors repeat them, shifted by a part of a row each time

/** `count` draws from N(0, 1), cut off to bfloat16 bits. */
export function normalBfloat16(count, seed) {
  const fresh = new Uint16Array(Math.min(count, FRESH));
  const bits = new Uint32Array(1);
  const number = new Float32Array(bits.buffer);
  let state = seed * 0x9e3779b9;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  for (let i = 0; i < fresh.length; i++) {
    number[0] = Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
    fresh[i] = bits[0] >>> 16;
  }
  const data = new Uint16Array(count);
  for (let at = 0, lap = 0; at < count; lap++) {
    const from = (lap * 12_347) % fresh.length;
    const part = fresh.subarray(from, Math.min(fresh.length, from + count - at));
    data.set(part, at);
    at += part.length;
  }
  return data;
}
