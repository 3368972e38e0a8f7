import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { selectBackend, status } from '@int-flash/attention';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type LanguageModel, loadModel } from '../src/index.js';

// REQUIRE_CUDA=1 turns this skip into a failure (vitest.setup.ts).
const available = status().backends.some(({ name, available }) => name === 'cuda' && available);
const folder = fileURLToPath(new URL('../../../models/int-flash-demo/', import.meta.url));
const { prompts } = JSON.parse(readFileSync(`${folder}goldens/golden.json`, 'utf8')) as {
  prompts: { name: string; ids: number[] }[];
};
const NEW_TOKENS = 64;

interface Choice {
  readonly attention: 'int8' | 'fp32';
  readonly kvCacheDtype: 'fp32' | 'int8' | 'int4';
}

/** On both sides docs/arithmetic.md, so the same bits. */
const SAME_BITS: readonly Choice[] = [
  { attention: 'int8', kvCacheDtype: 'int8' },
  { attention: 'int8', kvCacheDtype: 'int4' },
  { attention: 'fp32', kvCacheDtype: 'fp32' },
  { attention: 'fp32', kvCacheDtype: 'int8' },
];

/**
 * INT8 attention over floats goes through the forward kernel, which computes exponentials to 2^-22 where the page's polynomial has
 * 2.8e-6: one code of P in 1,500 differs by one. That is enough to flip codes of the next linear layer, and from there on any difference
 * grows to what the model's INT8 layers make of any difference: 0.07 to 0.13 rms of a logit on these prompts, just below what quantizing
 * attention changes at all (0.08 to 0.14). So the latter is the bound.
 */
const OTHER_BITS: Choice = { attention: 'int8', kvCacheDtype: 'fp32' };

function difference(a: Float32Array, b: Float32Array): { rms: number; most: number } {
  let squares = 0;
  let most = 0;
  for (const [i, x] of a.entries()) {
    const d = Math.abs(x - b[i]!);
    squares += d * d;
    most = Math.max(most, d);
  }
  return { rms: Math.sqrt(squares / a.length), most };
}

describe.skipIf(!available)('the shipped model on CUDA', () => {
  let cuda: LanguageModel;
  let cpu: LanguageModel;

  beforeAll(async () => {
    cuda = await loadModel(folder, { backend: 'cuda' });
    cpu = await loadModel(folder, { backend: 'cpu' });
  }, 120_000);
  afterAll(async () => {
    await cuda?.dispose();
    await cpu?.dispose();
    if (available) expect(selectBackend('cuda').liveBytes()).toBe(0);
  });

  async function write(model: LanguageModel, ids: number[], options: object = {}): Promise<number[]> {
    const drawn: number[] = [];
    for await (const { tokenId } of model.generate(ids, {
      temperature: 0,
      maxTokens: NEW_TOKENS,
      ignoreEos: true,
      ...options,
    }))
      drawn.push(tokenId);
    return drawn;
  }

  /** Where two texts part, the CPU's logits of what either chose. */
  async function parting(ids: number[], ours: number[], theirs: number[], choice: Choice): Promise<string> {
    const at = theirs.findIndex((id, i) => id !== ours[i]);
    if (at === -1) return 'the same text';
    const logits = (await cpu.logits([...ids, ...theirs.slice(0, at)], choice)).subarray(-cpu.config.vocabSize);
    return `token ${at} is ${ours[at]} for ${theirs[at]}, CPU logits ${logits[ours[at]!]} and ${logits[theirs[at]!]}`;
  }

  describe.each(SAME_BITS)('$attention attention, cache in $kvCacheDtype', (choice) => {
    it.each(prompts)('writes what the CPU writes: $name', async ({ ids }) => {
      const [ours, theirs] = [await write(cuda, ids, choice), await write(cpu, ids, choice)];
      expect(ours, await parting(ids, ours, theirs, choice)).toEqual(theirs);
    });

    it('scores a prompt as the CPU does', async () => {
      const { ids } = prompts[1]!;
      expect(difference(await cuda.logits(ids, choice), await cpu.logits(ids, choice)).most).toBe(0);
    });
  });

  it.each(prompts)('draws what the CPU draws with the same seed: $name', async ({ ids }) => {
    for (const rules of [
      { temperature: 0.8, topK: 40, topP: 0.9 },
      { temperature: 1.2 },
      { temperature: 1, minP: 0.1 },
    ]) {
      const choice = { ...SAME_BITS[0]!, ...rules, seed: 7 };
      expect(await write(cuda, ids, choice), JSON.stringify(rules)).toEqual(await write(cpu, ids, choice));
    }
  });

  it.each(['int8', 'int4'] as const)(
    'writes what the CPU writes when it guesses ahead, and has read the prompt before: cache in %s',
    async (kvCacheDtype) => {
      const choice = { attention: 'int8', kvCacheDtype } as const;
      const ids = [...prompts, ...prompts].flatMap((prompt) => prompt.ids);
      const theirs = await write(cpu, ids, choice);
      const { found } = cuda.status().prefixes;
      for (const more of [{ speculate: 7 }, { speculate: 3, logprobs: 0 }, { speculate: 0 }])
        expect(await write(cuda, ids, { ...choice, ...more }), JSON.stringify(more)).toEqual(theirs);
      expect(cuda.status().prefixes.found - found).toBe(2 * 64 * Math.floor((ids.length - 1) / 64));
    },
  );

  // The kernels on sorted tiles group keys under shared scales, so their roundings are others than the CPU's: two errors of one size add up like √2.
  it.each(prompts)(
    'INT8 attention over a float cache strays no further than two INT8s from fp32: $name',
    async ({ ids, name }) => {
      const [ours, theirs] = [await write(cuda, ids, OTHER_BITS), await write(cpu, ids, OTHER_BITS)];
      const text = [...ids, ...theirs];
      const expected = await cpu.logits(text, OTHER_BITS);
      const strayed = difference(await cuda.logits(text, OTHER_BITS), expected);
      const quantized = difference(await cpu.logits(text, { attention: 'fp32', kvCacheDtype: 'fp32' }), expected);
      const parted = await parting(ids, ours, theirs, OTHER_BITS);
      process.stderr.write(`${name}: logits differ by ${strayed.rms} rms, fp32's by ${quantized.rms}; ${parted}\n`);
      expect(strayed.rms).toBeLessThan(quantized.rms * Math.SQRT2);
    },
  );

  it('says what it runs on', () => {
    expect(cuda.status().backend).toMatchObject({ name: 'cuda', available: true });
  });
});
