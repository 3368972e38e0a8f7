import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { runInNewContext } from 'node:vm';
import { selectBackend } from '@int-flash/attention';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type GeneratedToken,
  type GenerateOptions,
  type LanguageModel,
  loadModel,
  type Prompt,
  SafetensorsFile,
} from '../src/index.js';

const folder = fileURLToPath(new URL('../../../models/int-flash-demo/', import.meta.url));
const golden = JSON.parse(readFileSync(`${folder}goldens/golden.json`, 'utf8')) as {
  prompts: {
    name: string;
    messages?: Prompt;
    ids: number[];
    greedy_ids: number[];
    first_end: number | null;
    smallest_gap: number;
  }[];
};
const [hello, , fox] = golden.prompts as [(typeof golden.prompts)[0], unknown, (typeof golden.prompts)[0]];
const GREEDY = { temperature: 0, maxTokens: 8 } as const;

let model: LanguageModel;
const backend = selectBackend('auto');

beforeAll(async () => {
  model = await loadModel(folder);
}, 120_000);

afterAll(async () => {
  await model.dispose();
  expect(backend.liveBytes()).toBe(0);
});

async function draw(prompt: Prompt, options: GenerateOptions, from: LanguageModel = model) {
  const tokens: GeneratedToken[] = [];
  const generation = from.generate(prompt, options);
  for await (const token of generation) tokens.push(token);
  return {
    ids: tokens.map(({ tokenId }) => tokenId),
    text: tokens.map(({ text }) => text).join(''),
    tokens,
    stats: generation.stats!,
  };
}

describe('parity with transformers, INT8 checkpoint', () => {
  it('has its logits and greedy continuations when both linear layers and attention are fp32', {
    timeout: 240_000,
  }, async () => {
    await using exact = await loadModel(folder, { attention: 'fp32', linear: 'fp32' });
    const file = await SafetensorsFile.open(`${folder}goldens/golden_logits.safetensors`);
    const names = [...file.header.entries.keys()];
    let worst = 0;
    for (const { name, messages, ids, greedy_ids, smallest_gap } of golden.prompts) {
      if (messages) expect(exact.encode(messages), name).toEqual(ids);
      const wanted = (await file.read(names.find((key) => key.includes(name))!)).data as Float32Array;
      const logits = (await exact.logits(ids)).subarray(-wanted.length);
      const error = logits.reduce((max, logit, i) => Math.max(max, Math.abs(logit - wanted[i]!)), 0);
      worst = Math.max(worst, error);
      expect(smallest_gap, 'near-ties would not bind').toBeGreaterThan(2e-3);
      expect((await draw(ids, { temperature: 0, maxTokens: 64, ignoreEos: true }, exact)).ids, name).toEqual(
        greedy_ids,
      );
    }
    await file.close();
    // The bound is 1e-3. Both sides compute in float32 and differ in the order of sums: 8 layers on logits of up to 30.
    expect(worst).toBeLessThan(2e-4);
  });

  it('loses less than 1% of perplexity to INT8 attention', { timeout: 240_000 }, async () => {
    const lines: string[] = [];
    for (const name of ['eval_sgd', 'eval_oz']) {
      const text = readFileSync(`${folder}${name}.txt`, 'utf8').slice(0, 3000);
      const ids = model.tokenizer.encode(text, { addSpecialTokens: false }).slice(0, 512);
      const fp32 = await model.perplexity(ids, { window: 512, attention: 'fp32' });
      const int8 = await model.perplexity(ids, { window: 512, attention: 'int8' });
      expect(fp32.predicted).toBe(511);
      const excess = int8.perplexity / fp32.perplexity - 1;
      lines.push(
        `${name}: perplexity fp32 ${fp32.perplexity.toFixed(4)}, int8 ${int8.perplexity.toFixed(4)}, ${(100 * excess).toFixed(3)}%`,
      );
      expect(Math.abs(excess)).toBeLessThan(0.01);
      expect(int8.nats).not.toEqual(fp32.nats); // the same bits would mean that INT8 never ran
    }
    process.stdout.write(`${lines.join('\n')}\n`);
  });
});

describe('generate', () => {
  it('streams what decoding all ids gives, for random tokens with pieces of characters', {
    timeout: 120_000,
  }, async () => {
    // At temperature 100 with all of the vocabulary allowed the draw is nearly uniform: bytes of broken characters included.
    for (let seed = 0; seed < 4; seed++) {
      const { ids, text, stats } = await draw('x', { temperature: 100, topP: 1, maxTokens: 24, seed, ignoreEos: true });
      expect(text).toBe(model.tokenizer.decode(ids, { skipSpecialTokens: true }));
      expect(stats).toMatchObject({ newTokens: 24, finishReason: 'length', seed });
    }
  });

  it('detokenizes any ids piecewise as at once', () => {
    const id = fc.integer({ min: 0, max: model.tokenizer.vocabSize - 1 });
    const bytes = fc.constantFrom(...model.tokenizer.encode('é😀漢字ß€', { addSpecialTokens: false }));
    fc.assert(
      fc.property(fc.array(fc.oneof(id, bytes), { maxLength: 40 }), (ids) => {
        const detokenizer = model.tokenizer.createDetokenizer({ skipSpecialTokens: true });
        const text = ids.map((each) => detokenizer.push(each)).join('') + detokenizer.flush();
        expect(text).toBe(model.tokenizer.decode(ids, { skipSpecialTokens: true }));
      }),
      { seed: 1, numRuns: 500 },
    );
  });

  it('draws the same tokens whatever the prefill chunk', { timeout: 120_000 }, async () => {
    const ids = golden.prompts[1]!.ids;
    for (const attention of ['fp32', 'int8'] as const) {
      const chunks = attention === 'fp32' ? [1, 7, 64, 4096] : [64, 100, 4096]; // below 64 the INT8 cache's key offset is another one
      const drawn = [];
      for (const prefillChunk of chunks) drawn.push((await draw(ids, { ...GREEDY, attention, prefillChunk })).ids);
      for (const other of drawn) expect(other).toEqual(drawn[0]);
    }
  });

  it('stops at an end token, which is reported and has no text', async () => {
    const { ids, stats, tokens, text } = await draw(hello.messages!, { temperature: 0, maxTokens: 40 });
    expect(ids.at(-1)).toBe(model.tokenizer.eosTokenId);
    expect(stats.finishReason).toBe('stop');
    expect(stats.promptTokens).toBe(hello.ids.length);
    expect(stats.newTokens).toBe(tokens.length);
    expect(stats.timeToFirstToken).toBeGreaterThan(0);
    expect(stats.tokensPerSecond).toBeGreaterThan(0);
    expect(text).not.toContain('<|end|>');
  });

  it('stops in front of a stop string', async () => {
    const whole = await draw(fox.ids, { ...GREEDY, maxTokens: 12 });
    const stop = whole.text.slice(9, 12);
    const cut = await draw(fox.ids, { ...GREEDY, maxTokens: 12, stop: ['never this', stop] });
    expect(cut.text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
    expect(cut.stats.finishReason).toBe('stop');
    const told = await draw(fox.ids, { ...GREEDY, maxTokens: 12, stop: ['never this', stop], logprobs: 0 });
    expect(told.text).toBe(cut.text);
    expect(told.tokens.at(-1)!.textEnd).toBeGreaterThanOrEqual(told.text.length + stop.length); // drawn, and cut off
    expect(cut.ids).toEqual(whole.ids.slice(0, cut.ids.length));
  });

  it('repeats itself for a seed', async () => {
    const options = { temperature: 1.5, maxTokens: 8, topP: 1 };
    const texts = [];
    for (const seed of [1, 1, 2]) texts.push((await draw(fox.ids, { ...options, seed })).ids.join());
    expect(texts[1]).toBe(texts[0]);
    expect(texts[2]).not.toBe(texts[0]);
  });

  it('tells log-probabilities that agree with logits()', async () => {
    const { tokens } = await draw(fox.ids, { ...GREEDY, maxTokens: 1, logprobs: 3 });
    const row = (await model.logits(fox.ids)).subarray(-model.config.vocabSize);
    const norm = Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0));
    expect(tokens[0]!.logprob).toBeCloseTo(row[tokens[0]!.tokenId]! - norm, 3);
    expect(tokens[0]!.topLogprobs).toHaveLength(3);
    expect(tokens[0]!.topLogprobs![0]!.tokenId).toBe(tokens[0]!.tokenId);
  });

  it('obeys a ban and ends at the end of the context', async () => {
    const free = await draw(fox.ids, { ...GREEDY, maxTokens: 1 });
    const banned = await draw(fox.ids, { ...GREEDY, maxTokens: 1, logitBias: { [free.ids[0]!]: -Infinity } });
    expect(banned.ids[0]).not.toBe(free.ids[0]);
    const foreign = runInNewContext(`new Map([[${free.ids[0]}, -Infinity]])`); // another realm's
    expect((await draw(fox.ids, { ...GREEDY, maxTokens: 1, logitBias: foreign })).ids).toEqual(banned.ids);
    expect(() => model.generate(new Array(1024).fill(5))).toThrowError(
      expect.objectContaining({ code: 'ERR_ARG_RANGE' }),
    );
  });

  it('runs several answers at once, each as it would alone, in one model and in two', {
    timeout: 120_000,
  }, async () => {
    await using second = await loadModel(folder, { kvCacheDtype: 'int4' });
    const [alone, other] = [await draw(hello.ids, GREEDY), await draw(fox.ids, GREEDY, second)];
    const together = await Promise.all([
      draw(hello.ids, GREEDY),
      draw(fox.ids, GREEDY, second),
      draw(hello.ids, GREEDY),
    ]);
    expect(together.map(({ ids }) => ids)).toEqual([alone.ids, other.ids, alone.ids]);
  });

  it.each([
    ['misspelled option', { temprature: 1 }, 'ERR_ARG_RANGE'],
    ['temperature', { temperature: Number.NaN }, 'ERR_ARG_RANGE'],
    ['topP 0', { topP: 0 }, 'ERR_ARG_RANGE'],
    ['maxTokens', { maxTokens: 1.5 }, 'ERR_ARG_RANGE'],
    ['seed', { seed: -1 }, 'ERR_ARG_RANGE'],
    ['stop', { stop: [''] }, 'ERR_ARG_RANGE'],
    ['stop type', { stop: [3] }, 'ERR_ARG_TYPE'],
    ['logitBias id', { logitBias: { 99999: 1 } }, 'ERR_ARG_RANGE'],
    ['logitBias key', { logitBias: { a: 1 } }, 'ERR_ARG_TYPE'],
    ['logitBias key undefined', { logitBias: new Map([[undefined, -1]]) }, 'ERR_ARG_TYPE'],
    ['logitBias as a Set', { logitBias: new Set([45]) }, 'ERR_ARG_TYPE'],
    ['logitBias as a Date', { logitBias: new Date(0) }, 'ERR_ARG_TYPE'],
    ['logitBias as headers', { logitBias: new Headers({ 45: '-1' }) }, 'ERR_ARG_TYPE'],
    ['logitBias of a token twice', { logitBias: { '045': -100, 45: 100 } }, 'ERR_ARG_RANGE'],
    ['signal', { signal: {} }, 'ERR_ARG_TYPE'],
    ['kvCacheDtype', { kvCacheDtype: 'fp8' }, 'ERR_ARG_RANGE'],
  ])('rejects a bad option: %s', (_name, options, code) => {
    expect(() => model.generate('x', options as GenerateOptions)).toThrowError(expect.objectContaining({ code }));
  });

  it.each([
    ['null', null],
    ['an id beyond the vocabulary', [4096]],
    ['half an id', [1.5]],
    ['no ids', []],
  ])('rejects a bad prompt: %s', (_name, prompt) => {
    expect(() => model.generate(prompt as Prompt)).toThrowError(expect.objectContaining({ name: 'IntFlashError' }));
  });
});

it.each([[[]], [[5]]])('has nothing to predict in %j', async (ids) => {
  await expect(model.perplexity(ids)).rejects.toMatchObject({
    code: 'ERR_ARG_RANGE',
    message: `Expected at least 2 tokens, got ${ids.length}`,
  });
});

describe('lifecycle', () => {
  it('frees the cache when the loop is left', async () => {
    for await (const token of model.generate(fox.ids, GREEDY)) {
      expect(token.tokenId).toBeGreaterThanOrEqual(0);
      expect(model.status()).toMatchObject({ sessions: 1 });
      expect(model.status().kvCacheBytes).toBeGreaterThan(0);
      break;
    }
    expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0 });
  });

  it('ends a next() under way on return()', async () => {
    const generation = model.generate(new Array(200).fill(7), GREEDY);
    const pending = generation.next();
    await generation.return();
    expect(await pending).toEqual({ done: true, value: undefined });
    expect(generation.stats).toBeUndefined();
    expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0 });
  });

  it('rejects with the signal’s reason wherever the abort comes, and holds nothing afterwards', {
    timeout: 120_000,
  }, async () => {
    const reason = new Error('enough');
    for (const delay of [0, 3, 11, 40, 90]) {
      const controller = new AbortController();
      const run = draw(new Array(150).fill(9), {
        temperature: 0,
        maxTokens: 800,
        ignoreEos: true,
        signal: controller.signal,
      });
      setTimeout(() => controller.abort(reason), delay);
      await expect(run).rejects.toBe(reason);
      expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0 });
    }
    await expect(draw('x', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const idle = new AbortController();
    const generation = model.generate(fox.ids, { ...GREEDY, signal: idle.signal });
    await generation.next();
    idle.abort(reason);
    expect(model.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0 }); // at once, though nobody asks for more
    await expect(generation.next()).rejects.toBe(reason);
  });

  it('rejects what is under way when it is disposed, and everything afterwards', { timeout: 120_000 }, async () => {
    const before = backend.liveBytes();
    const doomed = await loadModel(folder);
    expect(backend.liveBytes()).toBeGreaterThan(before);
    const disposed = expect.objectContaining({ code: 'ERR_DISPOSED' });
    const running = expect(draw(new Array(300).fill(9), { maxTokens: 500 }, doomed)).rejects.toEqual(disposed);
    const scoring = expect(doomed.perplexity(new Array(600).fill(9))).rejects.toEqual(disposed);
    const waiting = doomed.generate(fox.ids, GREEDY);
    await waiting.next();
    const unborn = doomed.generate(fox.ids, GREEDY);
    await doomed.dispose();
    await doomed.dispose();
    expect(backend.liveBytes()).toBe(before);
    expect(doomed.status()).toMatchObject({ sessions: 0, kvCacheBytes: 0 });
    await running;
    await scoring;
    await expect(waiting.next()).rejects.toEqual(disposed);
    await expect(unborn.next()).rejects.toEqual(disposed);
    expect(() => doomed.generate('x')).toThrowError(disposed);
    await expect(doomed.logits([1])).rejects.toEqual(disposed);
  });

  it('tells how far loading is, and stops it on demand', async () => {
    const before = backend.liveBytes();
    const fractions: number[] = [];
    const quick = await loadModel(folder, { onLoadProgress: (fraction) => fractions.push(fraction) });
    await quick.dispose();
    expect(fractions[0]).toBe(0);
    expect(fractions.at(-1)).toBe(1);
    expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
    const controller = new AbortController();
    const reason = new Error('never mind');
    const onLoadProgress = (fraction: number) => fraction > 0.3 && controller.abort(reason);
    await expect(loadModel(folder, { onLoadProgress, loadSignal: controller.signal })).rejects.toBe(reason);
    expect(backend.liveBytes()).toBe(before);
  });

  it.each([
    ['ERR_ARG_RANGE', { bakend: 'auto' }],
    ['ERR_ARG_RANGE', { kvKeyScales: 'chanel' }],
    ['ERR_ARG_TYPE', { kvKeyScales: true }],
    ['ERR_ARG_TYPE', { kvKeyScales: null }],
    ['ERR_ARG_TYPE', { kvKeyScales: ['channel'] }],
    // Floats have no scales.
    ['ERR_ARG_RANGE', { kvKeyScales: 'channel', kvCacheDtype: 'fp16' }],
    ['ERR_ARG_RANGE', { kvKeyScales: 'channel', kvCacheDtype: 'fp32' }],
    ['ERR_ARG_RANGE', { kvKeyScales: 'channel', attention: 'fp32' }],
    ['ERR_ARG_RANGE', { kvKeyScales: 'channel', kvCacheBytes: 100 }],
  ])('is refused with %s: %j', async (code, options) => {
    const before = backend.liveBytes();
    await expect(loadModel(folder, options as object)).rejects.toMatchObject({ name: 'IntFlashError', code });
    expect(backend.liveBytes()).toBe(before);
  });

  it('with scales of keys a channel takes calls that want floats, and fp32 attention over codes', async () => {
    await using scaled = await loadModel(folder, { kvKeyScales: 'channel' });
    expect(scaled.status().kvKeyScales).toBe('channel');
    const ids = model.encode('Once upon a time there was a king');
    for (const kvCacheDtype of ['fp32', 'fp16'] as const)
      expect(await scaled.logits(ids, { kvCacheDtype })).toEqual(await model.logits(ids, { kvCacheDtype }));
    const exact = await model.logits(ids, { attention: 'fp32', kvCacheDtype: 'fp32' });
    const errors = [];
    for (const one of [model, scaled]) {
      const coded = await one.logits(ids, { attention: 'fp32', kvCacheDtype: 'int8' });
      errors.push(Math.hypot(...exact.map((x, i) => x - coded[i]!)));
    }
    // Where the queries were not scaled, or twice, it would be many times as large.
    expect(errors[1]).toBeLessThan(2 * errors[0]!);
  });
});
