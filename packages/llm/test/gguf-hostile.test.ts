import { IntFlashError } from '@int-flash/ops';
import { seededUniform } from '@int-flash/reference';
import { describe, expect, it } from 'vitest';
import { GGML_TYPES } from '../src/ggml-types.js';
import { type GgufHeader, parseGgufHeader } from '../src/gguf-header.js';
import { NeedsMoreBytes, screenGguf } from '../src/gguf-screen.js';
import { GGML, type GgufTensor, type GgufTyped, writeGguf } from './write-gguf.js';

/** What `GgufFile.open` does, on bytes in memory. */
async function read(bytes: Uint8Array, fileSize = bytes.length): Promise<GgufHeader> {
  const screened = screenGguf(bytes, fileSize);
  if (screened instanceof NeedsMoreBytes) throw new Error(`all bytes are here, and it wants ${screened.upTo}`);
  return parseGgufHeader(bytes.subarray(0, screened.headerEnd), fileSize);
}

const METADATA: Record<string, GgufTyped> = {
  'general.architecture': ['string', 'llama'],
  'general.alignment': ['uint32', 32],
  'tokenizer.ggml.tokens': ['strings', ['a', 'bc', 'd']],
  'tokenizer.ggml.scores': ['floats', [1, 2, 3]],
  big: ['uint64', 2 ** 40],
  yes: ['bool', 1],
};
const tensor = (name: string, change: Partial<GgufTensor> = {}): GgufTensor => ({
  name,
  shape: [2, 32],
  type: GGML.q8_0.type,
  bytes: GGML.q8_0.encode(new Float32Array(64).fill(1)),
  ...change,
});
const VALID = writeGguf(METADATA, [tensor('one'), tensor('two', { shape: [3], type: 0, bytes: new Uint8Array(12) })]);

/** A valid file with bytes replaced where `find` first stands. */
function patched(find: string | Buffer, offset: number, bytes: readonly number[]): Buffer {
  const out = Buffer.from(VALID);
  const at = out.indexOf(find);
  expect(at).toBeGreaterThan(0);
  out.set(bytes, at + offset);
  return out;
}

const HUGE = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];

describe('hostile GGUF files', () => {
  it('the file they are made of is read whole', async () => {
    const { metadata, entries } = await read(VALID);
    expect(metadata.get('big')).toBe(2n ** 40n);
    expect(metadata.get('yes')).toBe(true);
    expect(metadata.get('tokenizer.ggml.tokens')).toEqual(['a', 'bc', 'd']);
    expect(entries.get('one')).toMatchObject({ shape: [2, 32], byteLength: 68 });
    expect(entries.get('two')).toMatchObject({ shape: [3], byteLength: 12 });
    expect((await read(writeGguf({}, []))).entries.size).toBe(0);
  });

  it.each<[string, Buffer, string]>([
    ['nothing at all', Buffer.alloc(0), 'ERR_MODEL_FORMAT'],
    ['three bytes', Buffer.from('GGU'), 'ERR_MODEL_FORMAT'],
    ['only the magic number', Buffer.from('GGUF'), 'ERR_MODEL_FORMAT'],
    ['another magic number', Buffer.from(VALID).fill('GGML', 0, 4), 'ERR_MODEL_FORMAT'],
    ['version 1', writeGguf(METADATA, [], { version: 1 }), 'ERR_UNSUPPORTED'],
    ['version 4', writeGguf(METADATA, [], { version: 4 }), 'ERR_UNSUPPORTED'],
    ['a big-endian version', Buffer.concat([Buffer.from('GGUF\0\0\0\x03'), Buffer.alloc(16)]), 'ERR_UNSUPPORTED'],
    ['more tensors than bytes', Buffer.from(VALID).fill(Buffer.from(HUGE), 8, 16), 'ERR_MODEL_FORMAT'],
    ['more keys than bytes', Buffer.from(VALID).fill(Buffer.from(HUGE), 16, 24), 'ERR_MODEL_FORMAT'],
    ['a key longer than the file', Buffer.from(VALID).fill(Buffer.from(HUGE), 24, 32), 'ERR_MODEL_FORMAT'],
    ['a key of no bytes', writeGguf({ '': ['uint32', 1] }, []), 'ERR_MODEL_FORMAT'],
    ['a key of 300 bytes', writeGguf({ ['k'.repeat(300)]: ['uint32', 1] }, []), 'ERR_MODEL_LIMIT'],
    ['a key that is not UTF-8', patched('general.arch', 0, [0xff]), 'ERR_MODEL_FORMAT'],
    ['a string longer than the file', patched('llama', -8, HUGE), 'ERR_MODEL_FORMAT'],
    ['a value of type 13', patched('general.architecture', 20, [13]), 'ERR_MODEL_FORMAT'],
    ['an array longer than the file', patched('tokenizer.ggml.tokens', 29, HUGE), 'ERR_MODEL_FORMAT'],
    ['an array of arrays', patched('tokenizer.ggml.tokens', 25, [9]), 'ERR_MODEL_FORMAT'],
    ['an array of type 99', patched('tokenizer.ggml.tokens', 25, [99]), 'ERR_MODEL_FORMAT'],
    ['a key twice', patched('yes', 0, [...Buffer.from('big')]), 'ERR_MODEL_FORMAT'],
    ['a key named as the library’s own', writeGguf({ kv_count: ['uint32', 1] }, []), 'ERR_MODEL_FORMAT'],
    ['a key named __proto__', writeGguf(JSON.parse('{"__proto__": ["uint32", 1]}'), []), 'ERR_MODEL_FORMAT'],
    ['alignment as int32', writeGguf({ 'general.alignment': ['int32', 32] }, [tensor('a')]), 'ERR_MODEL_FORMAT'],
    ['alignment 0', writeGguf({ 'general.alignment': ['uint32', 0] }, [tensor('a')]), 'ERR_MODEL_FORMAT'],
    ['alignment 48', writeGguf({ 'general.alignment': ['uint32', 48] }, [tensor('a')]), 'ERR_MODEL_FORMAT'],
    ['alignment 2^17', writeGguf({ 'general.alignment': ['uint32', 2 ** 17] }, [tensor('a')]), 'ERR_MODEL_FORMAT'],
    ['a tensor twice', writeGguf({}, [tensor('a'), tensor('a')]), 'ERR_MODEL_FORMAT'],
    ['a tensor without dimensions', writeGguf({}, [tensor('a', { shape: [] })]), 'ERR_MODEL_FORMAT'],
    ['a tensor of five dimensions', writeGguf({}, [tensor('a', { shape: [1, 1, 1, 2, 32] })]), 'ERR_MODEL_FORMAT'],
    ['a dimension of 0', writeGguf({}, [tensor('a', { shape: [0, 32] })]), 'ERR_MODEL_FORMAT'],
    [
      'dimensions whose product is beyond 2^64',
      writeGguf({}, [tensor('a', { shape: [2 ** 31, 2 ** 31, 2 ** 10] })]),
      'ERR_MODEL_FORMAT',
    ],
    ['a dimension beyond 2^32', writeGguf({}, [tensor('a', { shape: [2 ** 40, 32] })]), 'ERR_MODEL_FORMAT'],
    ['rows that are not whole blocks', writeGguf({}, [tensor('a', { shape: [2, 31] })]), 'ERR_MODEL_FORMAT'],
    ['a tensor type that is gone', writeGguf({}, [tensor('a', { type: 4 })]), 'ERR_UNSUPPORTED'],
    ['a tensor type of the future', writeGguf({}, [tensor('a', { type: 999 })]), 'ERR_UNSUPPORTED'],
    ['a tensor that ends outside', writeGguf({}, [tensor('a', { shape: [4096, 32] })]), 'ERR_MODEL_FORMAT'],
    ['a tensor that begins outside', patched('two', 3 + 4 + 8 + 4, HUGE), 'ERR_MODEL_FORMAT'],
    ['a tensor at an odd offset', patched('two', 3 + 4 + 8 + 4, [7, 0, 0, 0, 0, 0, 0, 0]), 'ERR_MODEL_FORMAT'],
    ['a tensor inside another', patched('two', 3 + 4 + 8 + 4, [32, 0, 0, 0, 0, 0, 0, 0]), 'ERR_MODEL_FORMAT'],
    ['a file cut in its header', VALID.subarray(0, 100), 'ERR_MODEL_FORMAT'],
    ['a file cut in its tensors', VALID.subarray(0, VALID.length - 32), 'ERR_MODEL_FORMAT'],
  ])('%s', async (_name, bytes, code) => {
    const error: unknown = await read(bytes).then(
      () => undefined,
      (reason) => reason,
    );
    expect(error).toBeInstanceOf(IntFlashError);
    expect(error).toMatchObject({ code });
    expect((error as Error).message).toMatch(/^Expected .*got /s);
  });

  it('every tensor type has the size that ggml gives it', () => {
    // Bits a weight, as llama.cpp's documentation has them.
    const bits = {
      F16: 16,
      BF16: 16,
      Q4_0: 4.5,
      Q4_1: 5,
      Q5_0: 5.5,
      Q5_1: 6,
      Q8_0: 8.5,
      Q2_K: 2.625,
      Q3_K: 3.4375,
      Q4_K: 4.5,
      Q5_K: 5.5,
      Q6_K: 6.5625,
      IQ4_XS: 4.25,
      IQ1_S: 1.5625,
    };
    for (const [name, wanted] of Object.entries(bits)) {
      const type = Object.values(GGML_TYPES).find((candidate) => candidate.name === name)!;
      expect((8 * type.bytes) / type.elements, name).toBe(wanted);
    }
  });
});

describe('mutated GGUF files', () => {
  const ROUNDS = 20_000;

  it(`${ROUNDS} of them: a typed error, or tensors that lie inside the file`, async () => {
    const seeds = [1, (Date.now() % 2 ** 31) + 1];
    let accepted = 0;
    for (const seed of seeds) {
      const random = seededUniform(seed);
      const below = (n: number) => Math.floor(random() * n);
      for (let round = 0; round < ROUNDS / seeds.length; round++) {
        const bytes = mutate(VALID, below);
        try {
          const { entries } = await read(bytes);
          accepted++;
          for (const { offset, byteLength } of entries.values()) {
            expect(offset + byteLength, `seed ${seed}, round ${round}`).toBeLessThanOrEqual(bytes.length);
          }
        } catch (error) {
          if (!IntFlashError.isInstance(error))
            throw new Error(`seed ${seed}, round ${round}: ${error}`, { cause: error });
        }
      }
    }
    // Both sides of the judge are reached: most mutations hit the header, some only values in it.
    expect(accepted).toBeGreaterThan(ROUNDS / 100);
    expect(accepted).toBeLessThan(ROUNDS / 2);
  }, 300_000);
});

/** One to three changes: a byte, a length, a cut, a run copied elsewhere. */
function mutate(source: Buffer, below: (n: number) => number): Buffer {
  let bytes = Buffer.from(source);
  for (let change = 0; change <= below(3); change++) {
    const at = below(bytes.length);
    switch (below(5)) {
      case 0:
        bytes[at] = below(256);
        break;
      case 1:
        bytes[at]! ^= 1 << below(8);
        break;
      case 2:
        bytes.set(Buffer.from(INTERESTING[below(INTERESTING.length)]!).subarray(0, bytes.length - at), at);
        break;
      case 3:
        bytes = Buffer.from(bytes.subarray(0, at + 1));
        break;
      default: {
        const from = below(bytes.length);
        bytes.copy(bytes, at, from, from + below(64));
      }
    }
  }
  return bytes;
}

const INTERESTING: readonly (readonly number[])[] = [
  HUGE,
  [0, 0, 0, 0, 0, 0, 0, 0],
  [255, 255, 255, 255],
  [0, 0, 0, 0, 1, 0, 0, 0],
  [9, 0, 0, 0, 9, 0, 0, 0],
];
