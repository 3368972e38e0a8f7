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

/**
 * How far two best logits may lie apart where CUDA and CPU choose differently. CUDA's prefill computes exponentials to 2^-22 where the
 * CPU's polynomial has 2.8e-6, so now and then a code of P differs by one in 255.
 */
const NEAR_TIE = 0.02;

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

  async function greedy(model: LanguageModel, ids: number[], options: object = {}): Promise<number[]> {
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

  /** Equal, or different first where the CPU's own two candidates are a near-tie. */
  async function expectSamePath(
    ids: number[],
    options: { attention?: 'int8' | 'fp32'; kvCacheDtype?: 'fp32' | 'int8' | 'int4' },
  ) {
    const [ours, theirs] = [await greedy(cuda, ids, options), await greedy(cpu, ids, options)];
    const first = theirs.findIndex((id, i) => id !== ours[i]);
    if (first === -1) return;
    const logits = (await cpu.logits([...ids, ...theirs.slice(0, first)], options)).subarray(-cpu.config.vocabSize);
    const gap = logits[theirs[first]!]! - logits[ours[first]!]!;
    process.stderr.write(`token ${first} differs: ${ours[first]} for ${theirs[first]}, logit gap ${gap}\n`);
    expect(gap).toBeLessThan(NEAR_TIE);
  }

  it.each(prompts)('writes what the CPU writes: $name', async ({ ids }) => {
    await expectSamePath(ids, {});
  });

  it.each([
    { attention: 'int8', kvCacheDtype: 'int4' },
    { attention: 'fp32', kvCacheDtype: 'fp32' },
    { attention: 'fp32', kvCacheDtype: 'int8' },
    { attention: 'int8', kvCacheDtype: 'fp32' },
  ] as const)('with $attention attention and a cache in $kvCacheDtype too', async (options) => {
    await expectSamePath(prompts[1]!.ids, options);
  });

  it('scores a prompt as the CPU does', async () => {
    const { ids } = prompts[1]!;
    const [ours, theirs] = [await cuda.logits(ids), await cpu.logits(ids)];
    const worst = ours.reduce((most, logit, i) => Math.max(most, Math.abs(logit - theirs[i]!)), 0);
    process.stderr.write(`largest difference of a logit from the CPU's: ${worst}\n`);
    expect(worst).toBeLessThan(NEAR_TIE);
  });

  it('says what it runs on', () => {
    expect(cuda.status().backend).toMatchObject({ name: 'cuda', available: true });
  });
});
