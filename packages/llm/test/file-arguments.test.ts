import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import {
  Checkpoint,
  isGgufPath,
  loadModel,
  loadRandomModel,
  loadTokenizer,
  openCheckpoint,
  openModel,
  quantizeCheckpoint,
  readGenerationConfig,
  readModelConfig,
  readSafetensors,
  SafetensorsFile,
  Tokenizer,
  writeSafetensors,
} from '../src/index.js';
import { refusal } from './refusal.js';

const model = fileURLToPath(new URL('../../../models/int-flash-demo/', import.meta.url));
// Only what `openCheckpoint` reads, in a folder of its own: so nothing of the model's is written by accident.
const folder = mkdtempSync(join(tmpdir(), 'int-flash-arguments-'));
for (const name of ['config.json', 'model.safetensors']) cpSync(join(model, name), join(folder, name));
const file = join(folder, 'model.safetensors');
afterAll(() => rmSync(folder, { recursive: true }));

const { proxy: revoked, revoke } = Proxy.revocable({}, {});
revoke();
const detached = new Uint8Array(16);
structuredClone(detached.buffer, { transfer: [detached.buffer] });
const fakeSignal = Object.create(AbortSignal.prototype);

const WRONG: readonly (readonly [string, unknown])[] = [
  ['undefined', undefined],
  ['null', null],
  ['a number', 5],
  ['an array', []],
  ['a function', () => {}],
  ['a symbol', Symbol('x')],
  ['a bigint', 1n],
  ['a URL', new URL('file:///tmp')],
  ['a revoked proxy', revoked],
];

describe.each(WRONG)('%s', (name, value) => {
  it('is no path', async () => {
    await refusal(() => loadTokenizer(value as never));
    await refusal(() => readModelConfig(value as never));
    await refusal(() => readGenerationConfig(value as never, 10));
    await refusal(() => openModel(value as never));
    await refusal(() => openCheckpoint(value as never));
    await refusal(() => SafetensorsFile.open(value as never));
    await refusal(() => loadModel(value as never));
    expect(isGgufPath(value as never)).toBe(false);
  });

  it('holds no bytes or tensors', async () => {
    await refusal(() => readSafetensors(value as never));
    await refusal(() => writeSafetensors(value as never));
    await refusal(() => writeSafetensors(new Map([['w', value as never]])));
    const tensor = { dtype: 'F32', shape: [2], data: new Float32Array(2) };
    for (const field of ['dtype', 'shape', 'data']) {
      if (field === 'shape' && name === 'an array') continue; // a scalar's
      await refusal(() => writeSafetensors(new Map([['w', { ...tensor, [field]: value } as never]])));
    }
    if (value !== undefined) await refusal(() => writeSafetensors(new Map(), value as never));
  });

  it('is no object of a model’s files, and no options', async () => {
    await refusal(() => loadRandomModel(value as never));
    await refusal(() => new Tokenizer(value as never));
    if (name !== 'an array') await refusal(() => new Checkpoint(folder, {} as never, value as never, {}));
    if (value === undefined) return;
    await refusal(() => openModel(folder, value as never));
    await refusal(() => openCheckpoint(folder, value as never));
    await refusal(() => SafetensorsFile.open(file, value as never));
    await using opened = await openCheckpoint(folder);
    await refusal(() => opened.has(value as never));
    await refusal(() => opened.readTensor(value as never));
  });
});

it('options of opening are known ones of the right types', async () => {
  for (const open of [openModel, openCheckpoint]) {
    await refusal(() => open(folder, 'signal' as never));
    await refusal(() => open(folder, { signal: fakeSignal }));
    await refusal(() => open(folder, { onProgress: 5 as never }));
    await refusal(() => open(folder, { progress: () => {} } as never), 'ERR_ARG_RANGE');
  }
  await refusal(() => SafetensorsFile.open(file, { signal: fakeSignal }));
});

it.skipIf(process.platform === 'win32')('a pipe is no file of a model', { timeout: 10_000 }, async () => {
  const piped = join(folder, 'piped');
  mkdirSync(piped);
  const names = ['config.json', 'x.gguf', 'x.safetensors'].map((name) => join(piped, name));
  execFileSync('mkfifo', names);
  for (const open of [() => readModelConfig(piped), () => openModel(names[1]!), () => SafetensorsFile.open(names[2]!)])
    expect(await refusal(open, 'ERR_MODEL_FORMAT')).toContain('to be a regular file');
});

it('options of quantizing are read once, and may throw', async () => {
  const floats = fileURLToPath(new URL('./goldens/llama', import.meta.url));
  const quantize = (options: object) => quantizeCheckpoint(floats, join(folder, 'quantized'), options);
  const fault = new Error('mine');
  const thrower = () => {
    throw fault;
  };
  for (const options of [Object.defineProperty({}, 'bits', { enumerable: true, get: thrower }), revoked]) {
    expect(await refusal(() => quantize(options))).toContain('throws when read');
  }
  await refusal(() => quantize({ onProgress: 5 }));
  let reads = 0;
  const told: number[] = [];
  const onProgress = ({ loadedBytes }: { loadedBytes: number }) => told.push(loadedBytes);
  await quantize({
    get onProgress() {
      return reads++ === 0 ? onProgress : 5;
    },
  });
  expect(reads).toBe(1);
  expect(told.length).toBeGreaterThan(0);
});

it('the size of a vocabulary is a number', async () => {
  for (const size of [null, '5', 1n, Symbol('x')]) await refusal(() => readGenerationConfig(model, size as never));
  await refusal(() => readGenerationConfig(model, undefined as never));
  await refusal(() => readGenerationConfig(model, -1), 'ERR_ARG_RANGE');
});

it('bytes that were transferred away are told as such', async () => {
  await refusal(() => readSafetensors(detached), 'ERR_BUFFER_DETACHED');
  const tensor = { dtype: 'U8', shape: [0], data: detached } as const;
  await refusal(() => writeSafetensors(new Map([['w', tensor]])), 'ERR_BUFFER_DETACHED');
  await refusal(() => readSafetensors(new Uint8Array(0)), 'ERR_MODEL_FORMAT');
});

it('bytes that another thread may change, or that may go away, are not read', async () => {
  const file = writeSafetensors(new Map([['w', { dtype: 'F32', shape: [2], data: Float32Array.of(1, 2) }]]));
  const shared = new Uint8Array(new SharedArrayBuffer(file.length));
  shared.set(file);
  await refusal(() => readSafetensors(shared), 'ERR_BUFFER_SHARED');
  expect(() => readSafetensors(shared)).toThrow(
    expect.objectContaining({ hint: 'Copy it first: new Uint8Array(shared).' }),
  );
  await refusal(() => readSafetensors(Buffer.from(shared.buffer)), 'ERR_BUFFER_SHARED');
  expect(readSafetensors(new Uint8Array(shared)).get('w')!.data).toEqual(Float32Array.of(1, 2));
  const resizable = Reflect.construct(ArrayBuffer, [file.length, { maxByteLength: 2 * file.length }]) as ArrayBuffer;
  const bytes = new Uint8Array(resizable);
  bytes.set(file);
  await refusal(() => readSafetensors(bytes), 'ERR_BUFFER_RESIZABLE');
  expect(readSafetensors(bytes.slice()).get('w')!.data).toEqual(Float32Array.of(1, 2));
  const transferred = Buffer.alloc(file.length); // in no pool, as Buffer.from has them
  structuredClone(transferred.buffer, { transfer: [transferred.buffer] });
  await refusal(() => readSafetensors(transferred), 'ERR_BUFFER_DETACHED');
});

it('tensors to be written have shapes of integers, arrays of their own type, and memory of their own', async () => {
  const data = new Float32Array(2);
  const write = (fields: object) => () =>
    writeSafetensors(new Map([['w', { dtype: 'F32', shape: [2], data, ...fields }]]));
  for (const dim of [2n, Symbol('x'), '2', null, undefined, [2], { valueOf: () => 2 }]) {
    expect(await refusal(write({ shape: [dim] }))).toContain('the shape of "w" to hold numbers, got');
  }
  await refusal(write({ shape: new Array(1) }));
  for (const dim of [2 ** 40, 2 ** 60, -2, 0.5, Number.NaN, Infinity])
    await refusal(write({ shape: [dim] }), 'ERR_SHAPE');
  for (const wrong of [new Float64Array(1), new Uint8Array(8), new DataView(new ArrayBuffer(8))])
    expect(await refusal(write({ data: wrong }))).toContain('the data of "w" to be a Float32Array');
  await refusal(write({ data: new Float32Array(new SharedArrayBuffer(8)) }), 'ERR_BUFFER_SHARED');
  await refusal(write({ dtype: 'F33' }), 'ERR_MODEL_FORMAT');
});

it('arrays that say another length are read and written as they are', async () => {
  const saying = <T extends object>(array: T, name: string, value: unknown): T =>
    Object.defineProperty(array, name, { value });
  const write = (data: Float32Array) => writeSafetensors(new Map([['w', { dtype: 'F32', shape: [2], data }]]));
  const file = write(Float32Array.of(1, 2));
  for (const [name, value] of [
    ['length', 1],
    ['byteLength', 4],
    ['byteOffset', 4],
    ['buffer', new ArrayBuffer(8)],
  ] as const) {
    expect(write(saying(Float32Array.of(1, 2), name, value))).toEqual(file);
    await refusal(() => write(saying(Float32Array.of(1), name, value)), 'ERR_SHAPE');
    expect(readSafetensors(saying(file.slice(), name, value)).get('w')!.data).toEqual(Float32Array.of(1, 2));
  }
  await refusal(() => readSafetensors(saying(file.slice(0, -1), 'length', file.length)), 'ERR_MODEL_FORMAT');
});

it('metadata to be written map strings to strings', async () => {
  const write = (metadata: object) => () => writeSafetensors(new Map(), metadata as never);
  const cycle: { self?: object } = {};
  cycle.self = cycle;
  for (const value of [undefined, Symbol('x'), 5, 1n, null, cycle]) {
    expect(await refusal(write({ format: value }))).toContain('metadata "format" to be a string, got');
  }
  await refusal(write({ toJSON: () => ({ format: 'pt' }) }));
  const inherited = Object.create({ toJSON: () => ({ format: 'tf' }) }, { format: { value: 'pt', enumerable: true } });
  expect(write(inherited)()).toEqual(writeSafetensors(new Map(), { format: 'pt' }));
});

it('what was taken is taken as before', () => {
  const data = Float32Array.of(1, 2);
  const bytes = writeSafetensors(new Map([['w', { dtype: 'F32', shape: [2], data }]]), { format: 'pt' });
  expect(readSafetensors(bytes).get('w')!.data).toEqual(data);
  expect(readSafetensors(Buffer.from(bytes)).get('w')!.data).toEqual(data);
});
