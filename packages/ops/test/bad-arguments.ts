/** One value of every kind a JavaScript caller can pass by mistake or on purpose. */
export function oddValues(): Record<string, unknown> {
  const revoked = Proxy.revocable({}, {});
  revoked.revoke();
  return {
    undefined: undefined,
    null: null,
    true: true,
    zero: 0,
    'negative number': -1,
    fraction: 1.5,
    NaN: Number.NaN,
    Infinity: Infinity,
    bigint: 5n,
    'empty string': '',
    string: 'float32',
    symbol: Symbol('x'),
    function: () => 1,
    'empty array': [],
    'array of numbers': [1, 2, 3, 4],
    'array with a hole': new Array(2),
    'nested array': [[1], [2]],
    object: {},
    'object without prototype': Object.create(null),
    Map: new Map([['isCausal', true]]),
    Date: new Date(0),
    RegExp: /x/,
    Promise: Promise.resolve(),
    ArrayBuffer: new ArrayBuffer(8),
    SharedArrayBuffer: new SharedArrayBuffer(8),
    DataView: new DataView(new ArrayBuffer(8)),
    Float64Array: new Float64Array(8),
    BigInt64Array: new BigInt64Array(8),
    Uint8ClampedArray: new Uint8ClampedArray(8),
    Float32Array: new Float32Array(3),
    'array that claims another type': Object.defineProperty(new Uint8Array(64), Symbol.toStringTag, {
      value: 'Float32Array',
    }),
    'Proxy of an array': new Proxy(new Float32Array(8), {}),
    'revoked Proxy': revoked.proxy,
    'Proxy that throws': new Proxy(
      {},
      {
        get: () => {
          throw new Error('trap');
        },
        ownKeys: () => {
          throw new Error('trap');
        },
      },
    ),
    'object whose getter throws': {
      get type() {
        throw new Error('getter');
      },
    },
  };
}
