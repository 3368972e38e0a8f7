// One query a head against a cache: cold, from caches that take turns and do not fit the last-level cache together, and hot.
import { relativeL2 } from '@int-flash/reference';
import { race, timesAsLong } from './race.mjs';
import { randomCodes, randomFloats } from './raw-calls.mjs';

const H = 8;
const COLD_BYTES = 192 * 2 ** 20; // several times any last-level cache slice that one socket's cores share

/** @param machine {backend, peers, read, settled} */
export async function decodeSpeed(machine, { N, D, cold }) {
  const { backend, peers } = machine;
  const query = randomFloats(H * D, 5);
  const out = new Float32Array(H * D);
  const count = (bytes) => (cold ? Math.max(3, Math.ceil(COLD_BYTES / bytes)) : 1);
  const bytes = (type) => 2 * H * N * (D * { fp32: 4, int8: 1, int4: 0.5 }[type] + (type === 'fp32' ? 0 : 4));
  const caches = Object.fromEntries(
    ['int8', 'int4', 'fp32'].map((type) => [type, repeat(count(bytes(type)), makeCache(type, N, D))]),
  );
  const attend = (cache) =>
    backend.cacheAttentionSync(
      { query, tokens: 1, heads: H, cache, scale: 1 / Math.sqrt(D), windowLeft: Infinity, softcap: 0 },
      out,
    );
  const candidates = {};
  for (const [type, list] of Object.entries(caches)) candidates[`cache-${type}`] = (i) => attend(list[i % list.length]);
  const arrays = caches.int8.map(({ keys, values, keyScales, valueScales }) => [keys, values, keyScales, valueScales]);
  if (machine.read) candidates.read = (i) => machine.read(arrays[i % arrays.length]);
  const answer = Float32Array.from(attend(caches.fp32[0]));
  const running = [];
  for (const peer of peers) {
    const sets = caches.fp32.map(({ keys, values }) => [query, keys, values]);
    const prepared = await peer.prepare({ H, Nq: 1, Nk: N, D, causal: true }, sets);
    if (!prepared) continue;
    const error = relativeL2(prepared.answer, answer);
    if (!(error <= 1e-3)) throw new Error(`${peer.name} differs from fp32 by ${error}`);
    candidates[peer.name] = prepared.run;
    running.push(prepared);
  }
  const { read, ...times } = await race(
    candidates,
    { rounds: 11, seconds: 4 },
    peers.length > 0 ? machine.settled : undefined,
  );
  for (const { release } of running) await release();
  const best = Object.entries(times)
    .filter(([name]) => name.startsWith('ort-'))
    .sort(([, a], [, b]) => a.ms - b.ms)[0];
  return Object.entries(times).map(([variant, time]) => ({
    bench: cold ? 'decode-cold' : 'decode-hot',
    variant,
    H,
    N,
    D,
    ms: time.ms,
    ...(read && { shareOfRead: timesAsLong(read, time) }),
    ...(best && { bestPeer: best[0], timesBestPeer: timesAsLong(best[1], time) }),
    timesFp32: timesAsLong(times['cache-fp32'], time),
    timesInt8: timesAsLong(times['cache-int8'], time),
  }));
}

function makeCache(type, N, D) {
  const elements = H * N * D;
  const shape = { type, kvHeads: H, capacity: N, headDim: D, length: N };
  if (type === 'fp32') return { ...shape, keys: randomFloats(elements, 1), values: randomFloats(elements, 2) };
  const scales = (seed) => randomFloats(H * N, seed).map((x) => 0.002 + Math.abs(x) * 0.01);
  const codes = (seed) => randomCodes(type === 'int8' ? elements : elements / 2, seed);
  const [keys, values] = [codes(1), codes(2)];
  const stored =
    type === 'int8' ? { keys, values } : { keys: new Uint8Array(keys.buffer), values: new Uint8Array(values.buffer) };
  return { ...shape, ...stored, keyScales: scales(3), valueScales: scales(4) };
}

/** The cache and copies of it. */
function repeat(count, cache) {
  const arrays = ['keys', 'values', 'keyScales', 'valueScales'].filter((name) => cache[name]);
  return Array.from({ length: count }, (_, i) =>
    i === 0 ? cache : { ...cache, ...Object.fromEntries(arrays.map((name) => [name, cache[name].slice()])) },
  );
}
