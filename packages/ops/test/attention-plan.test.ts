import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { contiguousStrides, IntFlashError, judgeAttention, judgeTensor, tensor } from '../src/index.js';

const tensorOf = (dims: number[]) => ({
  type: 'float32',
  dims,
  data: new Float32Array(dims.reduce((total, dim) => total * dim, 1)),
});

describe('judgeAttention', () => {
  it('addresses HND and NHD, with and without a batch', () => {
    const hnd = judgeAttention({
      query: tensorOf([2, 4, 3, 8]),
      key: tensorOf([2, 2, 5, 8]),
      value: tensorOf([2, 2, 5, 16]),
    });
    expect(hnd).toMatchObject({
      heads: 4,
      kvHeads: 2,
      headDim: 8,
      headDimV: 16,
      outDims: [2, 4, 3, 16],
      lseDims: [2, 4, 3],
    });
    expect(hnd.query.strides).toEqual({ batch: 96, head: 24, token: 8 });
    expect(hnd.outStrides).toEqual({ batch: 192, head: 48, token: 16 });
    const nhd = judgeAttention(
      { query: tensorOf([3, 4, 8]), key: tensorOf([5, 2, 8]), value: tensorOf([5, 2, 8]) },
      { tensorLayout: 'NHD' },
    );
    expect(nhd).toMatchObject({ heads: 4, kvHeads: 2, outDims: [3, 4, 8], lseDims: [4, 3] });
    expect(nhd.query.strides).toEqual({ batch: 0, head: 8, token: 32 });
    expect(nhd.sequences).toEqual([{ qStart: 0, qLen: 3, kStart: 0, kLen: 5 }]);
  });

  it('takes the defaults of PyTorch', () => {
    const plan = judgeAttention({
      query: tensorOf([1, 1, 2, 64]),
      key: tensorOf([1, 1, 2, 64]),
      value: tensorOf([1, 1, 2, 64]),
    });
    expect(plan).toMatchObject({
      scale: 0.125,
      softcap: 0,
      windowLeft: Infinity,
      windowRight: Infinity,
      diagonal: 'top-left',
      precision: 'full-int8',
      smoothK: true,
      returnLse: false,
    });
    expect(plan.mask).toBeUndefined();
  });

  it.each([
    [{ isCausal: true }, [Infinity, 0]],
    [{ windowSize: [3, 1] }, [3, 1]],
    [{ windowSize: [-1, 2] }, [Infinity, 2]],
    [{ windowSize: [3, -1], isCausal: true }, [3, 0]],
    [{ windowSize: [0, 0] }, [0, 0]],
  ])('folds %j into the band %j', (options, [left, right]) => {
    const plan = judgeAttention(
      { query: tensorOf([1, 2, 8]), key: tensorOf([1, 2, 8]), value: tensorOf([1, 2, 8]) },
      options,
    );
    expect([plan.windowLeft, plan.windowRight]).toEqual([left, right]);
  });

  it('broadcasts a mask by zero strides', () => {
    const inputs = { query: tensorOf([2, 4, 3, 8]), key: tensorOf([2, 4, 5, 8]), value: tensorOf([2, 4, 5, 8]) };
    const strides = (dims: number[]) =>
      judgeAttention(inputs, {
        attnMask: { type: 'bool', dims, data: new Uint8Array(dims.reduce((total, dim) => total * dim, 1)) },
      }).mask!.strides;
    expect(strides([3, 5])).toEqual({ batch: 0, head: 0, query: 5, key: 1 });
    expect(strides([2, 1, 1, 5])).toEqual({ batch: 5, head: 0, query: 0, key: 1 });
    expect(strides([4, 3, 1])).toEqual({ batch: 0, head: 3, query: 1, key: 0 });
  });

  it('takes empty batches, queries and keys', () => {
    for (const [batch, queries, keys] of [
      [0, 3, 5],
      [1, 0, 5],
      [1, 3, 0],
    ] as const) {
      const plan = judgeAttention({
        query: tensorOf([batch, 2, queries, 8]),
        key: tensorOf([batch, 2, keys, 8]),
        value: tensorOf([batch, 2, keys, 8]),
      });
      expect(plan.sequences.length).toBe(batch);
    }
  });

  it('reads every field once, so that no getter can change its answer', () => {
    let reads = 0;
    const shifty = {
      type: 'float32',
      dims: [1, 1, 2, 8],
      get data() {
        reads++;
        return new Float32Array(reads === 1 ? 16 : 0);
      },
    };
    const plan = judgeAttention({ query: shifty, key: tensorOf([1, 1, 2, 8]), value: tensorOf([1, 1, 2, 8]) });
    expect(reads).toBe(1);
    expect(plan.query.data.length).toBe(16);
  });
});

describe('judgeTensor', () => {
  it('says what it was given, be it a Proxy that throws or a value that names itself at length', () => {
    const { proxy, revoke } = Proxy.revocable([], {});
    revoke();
    const named = { [Symbol.toStringTag]: 'x'.repeat(1e6) };
    for (const data of [proxy, named]) {
      const judge = () => judgeTensor({ type: 'float32', data, dims: [1] }, 'query');
      expect(judge).toThrow(IntFlashError);
      expect(judge).toThrow(/^Expected .{1,200}$/);
    }
  });

  it('gives what dims, strides or a field throw when read as the cause of its own error', () => {
    const mine = new Error('mine');
    const fail = () => {
      throw mine;
    };
    const { proxy, revoke } = Proxy.revocable([2], {});
    revoke();
    const data = new Float32Array(2);
    const hostile: readonly (readonly [unknown, unknown])[] = [
      [Object.defineProperty([2], 0, { get: fail }), mine],
      [new Proxy([2], { get: fail }), mine],
      [proxy, expect.any(TypeError)],
    ];
    const unreadable = (cause: unknown) =>
      expect.objectContaining({ code: 'ERR_ARG_TYPE', cause, message: expect.stringContaining('throws when read') });
    for (const [value, cause] of hostile) {
      expect(() => tensor('float32', data, value as never)).toThrow(unreadable(cause));
      for (const field of ['dims', 'strides'])
        expect(() => judgeTensor({ type: 'float32', data, dims: [2], [field]: value }, 'x')).toThrow(unreadable(cause));
    }
    for (const field of ['type', 'data', 'dims', 'strides', 'location']) {
      const given = Object.defineProperty({ type: 'float32', data, dims: [2] }, field, { get: fail });
      expect(() => judgeTensor(given, 'x')).toThrow(unreadable(mine));
    }
    expect(() => judgeTensor(proxy, 'x')).toThrow(unreadable(expect.any(TypeError)));
    const own = Object.defineProperty([2], Symbol.iterator, { get: fail }); // which nobody asks for
    expect(tensor('float32', data, own).dims).toEqual([2]);
  });

  it('says where a tensor lies that is not in host memory, without reading it', () => {
    const elsewhere = (location: string) => ({
      type: 'float32',
      dims: [2],
      location,
      get data(): never {
        throw new Error('not read');
      },
    });
    for (const location of ['cuda', 'gpu-buffer'])
      expect(() => judgeTensor(elsewhere(location), 'query')).toThrow(
        expect.objectContaining({
          code: 'ERR_ARG_TYPE',
          message: `Expected query in host memory, got a tensor whose location is the string "${location}"`,
          hint: expect.stringContaining('Download'),
        }),
      );
    const here = { type: 'float32', dims: [2], data: new Float32Array(2) };
    for (const location of ['cpu', 'cpu-pinned', undefined])
      expect(judgeTensor({ ...here, location }, 'query').dims).toEqual([2]);
  });

  it('accepts exactly the strides whose last element lies in the data', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 4 }), fc.integer({ min: 0, max: 6 })), {
          minLength: 1,
          maxLength: 4,
        }),
        fc.integer({ min: 0, max: 40 }),
        (axes, length) => {
          const dims = axes.map(([dim]) => dim);
          const strides = axes.map(([, stride]) => stride);
          let largest = -1;
          const walk = (axis: number, at: number) => {
            if (axis === dims.length) largest = Math.max(largest, at);
            else for (let i = 0; i < dims[axis]!; i++) walk(axis + 1, at + i * strides[axis]!);
          };
          walk(0, 0);
          const judge = () => judgeTensor({ type: 'float32', dims, strides, data: new Float32Array(length) }, 'x');
          if (largest < length) expect(judge().strides).toEqual(strides);
          else expect(judge).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
        },
      ),
      { numRuns: 300 },
    );
  });

  it('makes row-major strides, also around empty axes', () => {
    expect(contiguousStrides([2, 3, 4])).toEqual([12, 4, 1]);
    expect(contiguousStrides([2, 0, 4])).toEqual([4, 4, 1]);
    expect(contiguousStrides([])).toEqual([]);
  });

  it('counts two int4 codes a byte', () => {
    expect(tensor('int4', new Uint8Array(3), [5]).dims).toEqual([5]);
    expect(() => tensor('int4', new Uint8Array(2), [5])).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
    expect(() => judgeTensor({ type: 'int4', dims: [4], strides: [1], data: new Uint8Array(2) }, 'x')).toThrow(
      expect.objectContaining({ code: 'ERR_UNSUPPORTED' }),
    );
  });

  it('is not fooled by an array that claims another type', () => {
    const disguised = Object.defineProperty(new Uint8Array(64), Symbol.toStringTag, { value: 'Float32Array' });
    expect(() => judgeTensor({ type: 'float32', dims: [64], data: disguised }, 'x')).toThrow(
      expect.objectContaining({ code: 'ERR_ARG_TYPE' }),
    );
  });

  it('names what it got', () => {
    const message = (value: unknown) => {
      try {
        judgeTensor(value, 'x');
      } catch (error) {
        return (error as Error).message;
      }
      return '';
    };
    expect(message(null)).toMatch(/got null$/);
    expect(message([1])).toMatch(/got an array of 1$/);
    expect(message(new DataView(new ArrayBuffer(1)))).toMatch(/got a DataView$/);
    expect(message(5n)).toMatch(/got the bigint 5$/);
    expect(message('x')).toMatch(/got the string "x"$/);
  });
});
