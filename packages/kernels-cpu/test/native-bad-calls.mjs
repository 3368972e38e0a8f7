// Run by native-lifecycle.test.ts in a child process: every argument of every export replaced by every kind of wrong value.
// Prints how many calls were made and those that neither threw a typed error nor were harmless.
import { attentionCall, cacheCall, loadAddon } from '../bench/raw-calls.mjs';

const addon = loadAddon();
const detached = new Float32Array(64);
structuredClone(detached, { transfer: [detached.buffer] });
const wrong = {
  undefined: undefined,
  null: null,
  number: 7,
  negative: -1,
  nan: Number.NaN,
  string: 'x',
  bigint: 1n,
  symbol: Symbol('x'),
  object: {},
  array: [1, 2],
  function: () => {},
  buffer: new ArrayBuffer(8),
  view: new DataView(new ArrayBuffer(8)),
  empty: new Float32Array(0),
  short: new Float32Array(3),
  int8: new Int8Array(3),
  uint8: new Uint8Array(5),
  bigints: new BigInt64Array(2),
  float64: new Float64Array(60),
  shared: new Float32Array(new SharedArrayBuffer(1024)),
  resizable: new Float32Array(new ArrayBuffer(1024, { maxByteLength: 2048 })),
  detached,
  proxy: new Proxy(new Float32Array(8), {}),
  external: addon.createLinear(Float64Array.of(0, 1, 1, 1, 0), new Float32Array(1), undefined, undefined),
};
const replaced = (list, at, value) => list.map((entry, i) => (i === at ? value : entry)); // Array.with is Node 20, but not ES2022
let calls = 0;
const untyped = [];

function attempt(name, f) {
  calls++;
  const check = (error) => {
    if (!/^ERR_[A-Z_]+$/.test(error?.code ?? '')) untyped.push(`${name}: ${error?.stack ?? error}`);
  };
  try {
    f()?.catch?.(check);
  } catch (error) {
    check(error);
  }
}

function eachArgument(name, args) {
  for (let i = 0; i < args.length; i++)
    for (const [kind, value] of Object.entries(wrong))
      attempt(`${name}[${i}] = ${kind}`, () => addon[name](...replaced(args, i, value)));
  for (let count = 0; count < args.length; count++)
    attempt(`${name} of ${count} arguments`, () => addon[name](...args.slice(0, count)));
}

function eachParameter(name, args, at) {
  for (let p = 0; p < args[at].length; p++) {
    for (const value of [-1, 0.5, Number.NaN, Infinity, -Infinity, 2 ** 31, 2 ** 40, 2 ** 53, 1e300]) {
      const parameters = args[at].slice();
      parameters[p] = value;
      attempt(`${name} parameter ${p} = ${value}`, () => addon[name](...replaced(args, at, parameters)));
    }
  }
}

for (const coded of [false, true]) {
  const shape = {
    precision: 'full-int8',
    coded,
    channelScale: true,
    B: 1,
    H: 2,
    Hkv: 1,
    Nq: 3,
    Nk: 5,
    D: 8,
    mask: 'float',
  };
  const { args, outLength, lseLength } = attentionCall(shape, { isa: 0 });
  const sync = [...args, new Float32Array(outLength), new Float32Array(lseLength)];
  const async = [1, ...args, outLength, lseLength];
  eachArgument('attention', sync);
  eachParameter('attention', sync, 0);
  eachParameter('attention', sync, 1);
  eachArgument('attentionAsync', async);
  eachParameter('attentionAsync', async, 1);
  eachParameter('attentionAsync', async, 2);
}
for (const type of ['int8', 'int4', 'fp32']) {
  const args = cacheCall({ type, tokens: 2, H: 2, Hkv: 1, length: 9, capacity: 12, D: 8 }, { isa: 0 });
  eachArgument('cacheAttention', args);
  eachParameter('cacheAttention', args, 0);
}
{
  const args = cacheCall({ type: 'int8', tokens: 2, H: 2, Hkv: 1, length: 70, capacity: 192, D: 8 }, { isa: 0 });
  eachArgument('cacheAttention', [...args, Int32Array.of(2, 0)]);
}
const appended = [
  Float64Array.of(0, 2, 2, 12, 8, 3, 2, 0, 16, 40, 0),
  new Float32Array(72),
  new Int8Array(192),
  new Int8Array(192),
  new Float32Array(24),
  new Float32Array(24),
  new Float32Array(16),
  new Float32Array(2),
];
eachArgument('appendCache', appended);
eachParameter('appendCache', appended, 0);
{
  const int4 = [...appended];
  int4[0] = Float64Array.of(0, 2, 2, 12, 8, 3, 2, 0, 16, 40, 1);
  int4[2] = new Uint8Array(96);
  int4[3] = new Uint8Array(96);
  eachArgument('appendCache', int4);
  eachParameter('appendCache', int4, 0);
}
const rotated = [
  Float64Array.of(0, 3, 2, 8, 3, 2, 20, 1),
  new Float32Array(58),
  new Float32Array(12),
  new Float32Array(12),
  new Float32Array(48),
];
eachArgument('rotateHeads', rotated);
eachParameter('rotateHeads', rotated, 0);
const turned = [Float64Array.of(0, 2, 8), new Float32Array(24), new Float32Array(24)];
eachArgument('turnRows', turned);
eachParameter('turnRows', turned, 0);
const linear = [Float64Array.of(0, 1, 3, 5, 0), new Int8Array(15), new Float32Array(3), new Float32Array(3)];
eachArgument('createLinear', linear);
eachParameter('createLinear', linear, 0);
eachArgument('linearForward', [
  addon.createLinear(...linear),
  new Float32Array(10),
  2,
  new Float32Array(6),
  2,
  new Float32Array(5),
  1e-5,
]);
const int4 = [Float64Array.of(0, 1, 3, 64, 32), new Uint8Array(96), new Float32Array(6), new Float32Array(3)];
eachArgument('createLinear', int4);
eachParameter('createLinear', int4, 0);
eachArgument('disposeLinear', [{}]);
{
  const part = (rows, cols) =>
    addon.createLinear(Float64Array.of(0, 1, rows, cols, 0), new Float32Array(rows * cols), undefined, undefined);
  // Two heads on one of keys, 8 channels each, 16 numbers a token.
  const made = [
    Float64Array.of(0, 1, 2, 1, 8, 4, 0.35, 1e-5, Infinity),
    ...[part(32, 16), part(16, 16), part(48, 16), part(16, 24)],
    new Float32Array(16),
    new Float32Array(16),
  ];
  eachArgument('createLayer', made);
  eachParameter('createLayer', made, 0);
  for (const int4 of [0, 1]) {
    const codes = () => (int4 ? new Uint8Array(64 * 4) : new Int8Array(64 * 8));
    const step = [
      addon.createLayer(...made),
      Float64Array.of(2, int4, 64, 3),
      ...[32, 64, 20, 20].map((length) => new Float32Array(length)),
      ...[codes(), codes()],
      ...[64, 64, 8, 1].map((length) => new Float32Array(length)),
      Int32Array.of(0),
    ];
    eachArgument('layerForward', step);
    // A block table in memory that the call writes.
    for (const written of [2, 3, 6, 7, 8, 9, 11])
      attempt(`layerForward with pages in ${written}`, () =>
        addon.layerForward(...replaced(step, 12, new Int32Array(step[written].buffer, 0, 1))),
      );
    eachParameter('layerForward', step, 1);
  }
  eachArgument('disposeLayer', [{}]);
  const disposed = addon.createLayer(...made);
  addon.disposeLayer(disposed);
  attempt('disposeLayer twice', () => addon.disposeLayer(disposed));
}
eachArgument('abort', [1]);
eachArgument('readArrays', [Float64Array.of(0, 1), new Int8Array(100), new Float32Array(5)]);
eachParameter('readArrays', [Float64Array.of(0, 1), new Uint8Array(100)], 0);
eachArgument('measurePeak', [Float64Array.of(0, 1)]);
eachParameter('measurePeak', [Float64Array.of(0, 1)], 0);
await new Promise((resolve) => setTimeout(resolve, 200));
process.stdout.write(JSON.stringify({ calls, untyped: untyped.slice(0, 20) }));
