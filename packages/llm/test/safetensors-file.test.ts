import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  readSafetensors,
  SAFETENSORS_DTYPE_BYTES,
  type SafetensorsDtype,
  type SafetensorsTensor,
  viewElements,
} from '../src/safetensors.js';
import { SafetensorsFile } from '../src/safetensors-file.js';
import { planSafetensors, writeSafetensors } from '../src/safetensors-writer.js';

const dtypes = Object.keys(SAFETENSORS_DTYPE_BYTES) as SafetensorsDtype[];
const tensor = fc
  .record({ dtype: fc.constantFrom(...dtypes), shape: fc.array(fc.nat(4), { maxLength: 3 }) })
  .chain(({ dtype, shape }) => {
    const length = shape.reduce((product, dim) => product * dim, SAFETENSORS_DTYPE_BYTES[dtype]);
    return fc
      .uint8Array({ minLength: length, maxLength: length })
      .map((bytes): SafetensorsTensor => ({ dtype, shape, data: viewElements(bytes.slice(), dtype) }));
  });
const tensors = fc
  .uniqueArray(fc.tuple(fc.string({ unit: 'grapheme', maxLength: 12 }), tensor), {
    selector: ([name]) => name,
    maxLength: 6,
  })
  .map((entries) => entries.filter(([name]) => name !== '__metadata__'));
const rawBytes = ({ data }: SafetensorsTensor) => [...new Uint8Array(data.buffer, data.byteOffset, data.byteLength)];

describe('writeSafetensors', () => {
  it('makes what readSafetensors reads back', () => {
    fc.assert(
      fc.property(tensors, fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 }), (entries, metadata) => {
        const read = readSafetensors(writeSafetensors(new Map(entries), metadata));
        expect(read.size).toBe(entries.length);
        for (const [name, { dtype, shape, ...rest }] of entries) {
          const got = read.get(name)!;
          expect({ dtype: got.dtype, shape: got.shape }).toEqual({ dtype, shape });
          expect(rawBytes(got)).toEqual(rawBytes({ dtype, shape, ...rest }));
        }
      }),
    );
  });

  it('makes the same aligned bytes whatever order the tensors come in', () => {
    fc.assert(
      fc.property(tensors, (entries) => {
        const bytes = writeSafetensors(new Map(entries));
        expect(writeSafetensors(new Map([...entries].reverse()))).toEqual(bytes);
        const plan = planSafetensors(entries.map(([name, { dtype, shape }]) => ({ name, dtype, shape })));
        expect(plan.prefix.length % 8).toBe(0);
        let at = plan.prefix.length;
        for (const name of plan.order) {
          const { dtype, data } = new Map(entries).get(name)!;
          expect(at % SAFETENSORS_DTYPE_BYTES[dtype]).toBe(0);
          at += data.byteLength;
        }
      }),
    );
  });

  it('refuses data of another length than the shape, and what no reader takes', () => {
    const data = new Float32Array(3);
    expect(() => writeSafetensors(new Map([['a', { dtype: 'F32', shape: [2], data }]]))).toThrow(
      /Expected 8 bytes for "a", got 12/,
    );
    const outline = { name: 'a', dtype: 'U8' as const, shape: [0] };
    expect(() => planSafetensors([outline, outline])).toThrow(/each key once/);
  });
});

describe('readSafetensors', () => {
  it.each([0, 1, 2, 4])('takes a Buffer whose data lie %i bytes after a multiple of 8', (offset) => {
    const data = Float64Array.of(1, 2, 3);
    const written = writeSafetensors(new Map([['a', { dtype: 'F64', shape: [3], data }]]));
    const bytes = Buffer.alloc(written.length + 8).subarray(offset, offset + written.length);
    bytes.set(written);
    expect(readSafetensors(bytes).get('a')!.data).toEqual(data);
  });
});

describe('SafetensorsFile', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'safetensors-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  const weights = Float32Array.from({ length: 3 * 2 ** 20 }, (_, i) => i); // 12 MiB: three chunks
  const bytes = writeSafetensors(
    new Map<string, SafetensorsTensor>([
      ['weights', { dtype: 'F32', shape: [3, 2 ** 20], data: weights }],
      ['small', { dtype: 'I8', shape: [2], data: Int8Array.of(-1, 7) }],
    ]),
  );

  it('reads tensors on demand and tells how far it is', async () => {
    const path = join(folder, 'good.safetensors');
    await writeFile(path, bytes);
    const file = await SafetensorsFile.open(path);
    const chunks: number[] = [];
    const read = await file.read('weights', { onBytes: (count) => chunks.push(count) });
    expect(Buffer.compare(Buffer.from(read.data.buffer), Buffer.from(weights.buffer))).toBe(0);
    expect(chunks.length).toBeGreaterThan(1);
    expect(chunks.reduce((sum, count) => sum + count, 0)).toBe(weights.byteLength);
    expect([...(await file.read('small')).data]).toEqual([-1, 7]);
    await expect(file.read('absent')).rejects.toMatchObject({ code: 'ERR_MODEL_FORMAT', field: 'tensors.absent' });
    await file.close();
  });

  it('stops at an abort with the reason given', async () => {
    const path = join(folder, 'abort.safetensors');
    await writeFile(path, bytes);
    const file = await SafetensorsFile.open(path);
    const controller = new AbortController();
    const reason = new Error('enough');
    const seen: number[] = [];
    const reading = file.read('weights', {
      signal: controller.signal,
      onBytes: (count) => {
        seen.push(count);
        controller.abort(reason);
      },
    });
    await expect(reading).rejects.toBe(reason);
    expect(seen).toHaveLength(1);
    await expect(SafetensorsFile.open(path, { signal: controller.signal })).rejects.toBe(reason);
    await file.close();
  });

  it('reports a file that shrinks after it was opened', async () => {
    const path = join(folder, 'shrinks.safetensors');
    await writeFile(path, bytes);
    const file = await SafetensorsFile.open(path);
    await truncate(path, 2 ** 20);
    await expect(file.read('weights')).rejects.toMatchObject({ code: 'ERR_MODEL_FORMAT', offset: 2 ** 20 });
    await file.close();
  });

  it('refuses a folder, an empty file and an absent one, without naming the folder they are in', async () => {
    await writeFile(join(folder, 'empty.safetensors'), '');
    for (const name of ['.', 'empty.safetensors', 'absent.safetensors']) {
      const error = await SafetensorsFile.open(join(folder, name)).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: 'ERR_MODEL_FORMAT' });
      expect((error as Error).message).not.toContain(tmpdir());
    }
  });
});
