// Calls straight to the addon, without TypeScript: what isa-check.mjs and the tests' child processes are made of.
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

export const addonPath =
  process.env.INTFLASH_ADDON_PATH ?? fileURLToPath(new URL('../build/Release/int_flash_cpu.node', import.meta.url));
export const loadAddon = () => createRequire(import.meta.url)(addonPath);

export const PRECISIONS = ['full-int8', 'half-int8', 'paper-int8', 'int4-qk', 'fp32'];

/** Numbers in (-1, 1) with a few outliers: a fixed sequence per seed. */
export function randomFloats(count, seed) {
  let state = (seed * 2654435761 + 12345) | 0;
  const out = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    const x = state / 2 ** 31;
    out[i] = (state & 0x3f00) === 0 ? 6 * x : x;
  }
  return out;
}

export function randomCodes(count, seed, limit = 127) {
  return Int8Array.from(randomFloats(count, seed), (x) => Math.max(-limit, Math.min(limit, Math.round(x * limit))));
}

/**
 * Arguments of addon.attention up to the mask, for contiguous [batch, heads, tokens, dim] operands.
 * @param shape {precision, B, H, Hkv, Nq, Nk, D, Dv, windowLeft, windowRight, bottomRight, softcap, mask, coded, smoothK}
 */
export function attentionCall(shape, { isa, threads = 1, checksums = 0, seed = 1 }) {
  const { B, H, Hkv, Nq, Nk, D, Dv = D, coded = false } = shape;
  const type = coded ? 3 : 0;
  const parameters = Float64Array.of(
    isa,
    threads,
    PRECISIONS.indexOf(shape.precision),
    shape.smoothK === false || coded ? 0 : 1,
    H,
    Hkv,
    D,
    Dv,
    Math.fround(1 / Math.sqrt(D)),
    shape.softcap ?? 0,
    shape.windowLeft ?? Infinity,
    shape.windowRight ?? Infinity,
    shape.bottomRight ? 1 : 0,
    B,
    type,
    type,
    type,
    ...[H * Nq * D, Nq * D, D],
    ...[Hkv * Nk * D, Nk * D, D],
    ...[Hkv * Nk * Dv, Nk * Dv, Dv],
    ...[H * Nq * Dv, Nq * Dv, Dv],
    ...[H * Nq, Nq, 1],
    ...[H * Nq, Nq, 1],
    ...[Hkv * Nk, Nk, 1],
    ...[Hkv * Nk, Nk, 1],
    ...[Hkv * Dv, Dv, 0],
    shape.mask === 'bool' ? 1 : shape.mask === 'float' ? 2 : 0,
    ...(shape.mask ? [0, 0, Nk, 1] : [0, 0, 0, 0]),
    checksums,
  );
  const spans = new Float64Array(B * 4);
  for (let b = 0; b < B; b++) spans.set([0, Nq, 0, Nk], b * 4);
  const make = coded ? randomCodes : randomFloats;
  const scales = (count, s) => randomFloats(count, s).map((x) => 0.002 + Math.abs(x) * 0.02);
  const noise = shape.mask && randomFloats(Nq * Nk, seed + 9);
  return {
    args: [
      parameters,
      spans,
      make(B * H * Nq * D, seed + 1),
      make(B * Hkv * Nk * D, seed + 2),
      make(B * Hkv * Nk * Dv, seed + 3),
      coded ? scales(B * H * Nq, seed + 4) : undefined,
      coded ? scales(B * Hkv * Nk, seed + 5) : undefined,
      coded ? scales(B * Hkv * Nk, seed + 6) : undefined,
      coded && shape.channelScale ? scales(B * Hkv * Dv, seed + 7) : undefined,
      shape.mask === 'bool'
        ? Uint8Array.from(noise, (x) => (x > -0.2 ? 1 : 0))
        : noise?.map((x) => (x < -0.7 ? -Infinity : 3 * x)),
    ],
    outLength: B * H * Nq * Dv,
    lseLength: B * H * Nq,
  };
}

export function runAttention(addon, shape, options) {
  const { args, outLength, lseLength } = attentionCall(shape, options);
  const out = new Float32Array(outLength);
  const lse = new Float32Array(lseLength);
  const checksums = addon.attention(...args, out, lse);
  return { out, lse, checksums };
}

/** Arguments of addon.cacheAttention for {type, tokens, H, Hkv, length, capacity, D, windowLeft, softcap}. */
export function cacheCall(shape, { isa, threads = 1, seed = 1 }) {
  const { type, tokens, H, Hkv, length, capacity = length, D } = shape;
  const parameters = Float64Array.of(
    isa,
    threads,
    ['fp32', 'int8', 'int4'].indexOf(type),
    Hkv,
    capacity,
    D,
    length,
    tokens,
    H,
    Math.fround(1 / Math.sqrt(D)),
    shape.softcap ?? 0,
    shape.windowLeft ?? Infinity,
  );
  const elements = Hkv * capacity * D;
  const rows = (s) => {
    if (type === 'fp32') return randomFloats(elements, s);
    if (type === 'int8') return randomCodes(elements, s);
    return Uint8Array.from(randomFloats(elements / 2, s), (x) => ((x + 8) * 4099) & 0xff);
  };
  const scales = (s) => randomFloats(Hkv * capacity, s).map((x) => 0.002 + Math.abs(x) * 0.02);
  const scaled = type !== 'fp32';
  return [
    parameters,
    randomFloats(tokens * H * D, seed + 1),
    rows(seed + 2),
    rows(seed + 3),
    scaled ? scales(seed + 4) : undefined,
    scaled ? scales(seed + 5) : undefined,
    new Float32Array(tokens * H * D),
  ];
}

export function runCache(addon, shape, options) {
  const args = cacheCall(shape, options);
  addon.cacheAttention(...args);
  return args[6];
}

/** {type: 'fp32' | 'int8' | 'int4', rows, cols, group, tokens, bias} → the layer's output. */
export function runLinear(addon, { type, rows, cols, group = 0, tokens, bias }, { isa, threads = 1, seed = 1 }) {
  const weights = {
    fp32: () => randomFloats(rows * cols, seed),
    int8: () => randomCodes(rows * cols, seed),
    int4: () => new Uint8Array(randomCodes((rows * cols) / 2, seed).buffer),
  }[type]();
  const scaleCount = { fp32: 0, int8: rows, int4: (rows * cols) / group }[type];
  const handle = addon.createLinear(
    Float64Array.of(isa, threads, rows, cols, group),
    weights,
    scaleCount > 0 ? randomFloats(scaleCount, seed + 1).map((x) => 0.001 + Math.abs(x) * 0.01) : undefined,
    bias ? randomFloats(rows, seed + 2) : undefined,
  );
  const out = new Float32Array(tokens * rows);
  addon.linearForward(handle, randomFloats(tokens * cols, seed + 3), tokens, out);
  addon.disposeLinear(handle);
  return out;
}

/** Index of the first element whose bits differ, -1 if none; zeros of either sign are equal. */
export function firstDifference(a, b) {
  if (a.length !== b.length) return 0;
  for (let i = 0; i < a.length; i++) if (!Object.is(a[i] + 0, b[i] + 0)) return i;
  return -1;
}
