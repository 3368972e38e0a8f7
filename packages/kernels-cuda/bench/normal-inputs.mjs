const FRESH = 1 << 20; // numbers of its own; larger tensors repeat them, shifted by a part of a row each time

/**
 * `count` draws from N(0, 1), as `type` has them in memory: 'float32', or 'float16' or 'bfloat16' bits, cut off rather than rounded,
 * since a benchmark's numbers may be any.
 */
export function normalInputs(count, seed, type) {
  const fresh = narrow(normal(Math.min(count, FRESH), seed), type);
  const data = new fresh.constructor(count);
  for (let at = 0, lap = 0; at < count; lap++) {
    const from = (lap * 12_347) % fresh.length;
    const part = fresh.subarray(from, Math.min(fresh.length, from + count - at));
    data.set(part, at);
    at += part.length;
  }
  return data;
}

function normal(count, seed) {
  let state = seed * 0x9e3779b9;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from(
    { length: count },
    () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}

function narrow(data, type) {
  if (type === 'float32') return data;
  const bits = new Uint32Array(data.buffer);
  const short = new Uint16Array(data.length);
  for (let i = 0; i < short.length; i++) {
    const x = bits[i];
    const exponent = ((x >>> 23) & 255) - 112;
    if (type === 'bfloat16') short[i] = x >>> 16;
    else short[i] = exponent > 0 ? ((x >>> 16) & 0x8000) | (exponent << 10) | ((x >>> 13) & 0x3ff) : 0;
  }
  return short;
}
