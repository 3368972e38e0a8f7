import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Random } from '../src/random.js';
import {
  adjustLogits,
  distribution,
  drawRules,
  leavesLogits,
  logprobs,
  type SamplingRules,
  sample,
} from '../src/sampler.js';

const OFF: SamplingRules = {
  logitBias: new Map(),
  repeatPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
};
const NO_HISTORY = { prompt: [], answer: [] };
const DRAWS = 20_000;
/** Logits whose softmax is 0.5, 0.25, 0.125, 0.075, 0.05. */
const PROBABILITIES = [0.5, 0.25, 0.125, 0.075, 0.05];
const LOGITS = Float32Array.from(PROBABILITIES, (p) => Math.log(p) + 3);

// By hand: temperature 1/2 squares the odds; the cuts renormalise what is left.
const squares = PROBABILITIES.map((p) => p * p);
const squareSum = squares.reduce((a, b) => a + b, 0);
const cases: readonly (readonly [string, Partial<SamplingRules>, readonly number[]])[] = [
  ['temperature 1', {}, PROBABILITIES],
  ['temperature 1/2', { temperature: 0.5 }, squares.map((p) => p / squareSum)],
  ['topK 2', { topK: 2 }, [2 / 3, 1 / 3, 0, 0, 0]],
  ['topK beyond the vocabulary', { topK: 99 }, PROBABILITIES],
  ['topP 0.8: 0.5 + 0.25 < 0.8, so three stay', { topP: 0.8 }, [4 / 7, 2 / 7, 1 / 7, 0, 0]],
  ['topP 0.1: one always stays', { topP: 0.1 }, [1, 0, 0, 0, 0]],
  ['topP counts within topK: 2/3 of two reaches 0.6', { topK: 2, topP: 0.6 }, [1, 0, 0, 0, 0]],
  ['minP 0.2: a fifth of 0.5 is 0.1', { minP: 0.2 }, [4 / 7, 2 / 7, 1 / 7, 0, 0]],
  ['a ban', { logitBias: new Map([[0, -Infinity]]) }, [0, 0.5, 0.25, 0.15, 0.1]],
  ['a bias of ln 2', { logitBias: new Map([[1, Math.log(2)]]) }, [0.4, 0.4, 0.1, 0.06, 0.04]],
];

describe('sample', () => {
  it.each(cases)('draws as the distribution says: %s', (_name, rules, expected) => {
    const random = new Random(7);
    const counts = expected.map(() => 0);
    for (let i = 0; i < DRAWS; i++) counts[sample(LOGITS, { ...OFF, ...rules }, NO_HISTORY, random)]!++;
    let chiSquare = 0;
    expected.forEach((p, id) => {
      if (p === 0) expect(counts[id], `token ${id}`).toBe(0);
      else chiSquare += (counts[id]! - p * DRAWS) ** 2 / (p * DRAWS);
    });
    expect(chiSquare).toBeLessThan(18.47); // the 99.9th percentile for 4 degrees of freedom, an upper bound for fewer
  });

  it('computes the same distributions exactly', () => {
    for (const [name, rules, expected] of cases) {
      const all = { ...OFF, ...rules };
      const got = expected.map(() => 0);
      for (const { id, probability } of distribution(adjustLogits(LOGITS, all, NO_HISTORY), all)) got[id] = probability;
      got.forEach((p, id) => {
        expect(Math.abs(p - expected[id]!), `${name}, token ${id}`).toBeLessThan(1e-6); // float32 logits
      });
    }
  });

  it('takes the highest logit at temperature 0, the first of equals', () => {
    const greedy = { ...OFF, temperature: 0 };
    expect(sample(Float32Array.of(1, 3, 3, 2), greedy, NO_HISTORY, new Random(0))).toBe(1);
    expect(sample(Float32Array.of(-Infinity, -1, -Infinity), greedy, NO_HISTORY, new Random(0))).toBe(1);
  });

  it.each([
    ['NaN among others', [1, NaN, 3]],
    ['NaN first', [NaN, 1, 3]],
    ['NaN last', [3, 1, NaN]],
    ['NaN only', [NaN, NaN, NaN]],
    ['infinity among others', [1, Infinity, 3]],
    ['nothing that is not banned', [-Infinity, -Infinity, -Infinity]],
  ])('refuses %s, whatever the rules', (_name, logits) => {
    const values = Float32Array.from(logits);
    const nonFinite = expect.objectContaining({ code: 'ERR_NONFINITE' });
    for (const rules of [{}, { temperature: 0 }, { topK: 2 }, { topP: 0.9 }, { minP: 0.1 }]) {
      expect(() => sample(values, { ...OFF, ...rules }, NO_HISTORY, new Random(1))).toThrowError(nonFinite);
    }
    for (const top of [0, 2]) expect(() => logprobs(values, 0, top)).toThrowError(nonFinite);
  });

  it('draws where all tokens but one are banned', () => {
    const logitBias = new Map([0, 1, 3, 4].map((id) => [id, -Infinity]));
    expect(sample(LOGITS, { ...OFF, logitBias }, NO_HISTORY, new Random(0))).toBe(2);
  });

  it('cuts large vocabularies like a full sort does', () => {
    const rules = fc.record({
      temperature: fc.double({ min: 0.05, max: 3, noNaN: true }),
      topK: fc.nat(40),
      topP: fc.double({ min: 0.01, max: 1, noNaN: true }),
      minP: fc.double({ min: 0, max: 1, noNaN: true }),
    });
    const logits = fc.array(fc.float({ min: -40, max: 40, noNaN: true }), { minLength: 1, maxLength: 300 });
    fc.assert(
      fc.property(logits, rules, (values, some) => {
        const all = { ...OFF, ...some };
        const got = distribution(Float32Array.from(values), all);
        expect(got.map(({ id }) => id).sort((a, b) => a - b)).toEqual(slowCut(values, some).sort((a, b) => a - b));
        expect(got.reduce((sum, { probability }) => sum + probability, 0)).toBeCloseTo(1, 9);
      }),
      { seed: 1, numRuns: 500 },
    );
  });
});

/** Ids that stay, by the definition: sort everything, then cut three times. */
function slowCut(
  logits: number[],
  { temperature, topK, topP, minP }: Pick<SamplingRules, 'temperature' | 'topK' | 'topP' | 'minP'>,
) {
  const maximum = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp((logit - maximum) / temperature));
  let ids = logits.map((_, id) => id).filter((id) => weights[id]! > 0);
  ids.sort((a, b) => weights[b]! - weights[a]! || a - b);
  if (topK > 0) ids = ids.slice(0, topK);
  const mass =
    topK > 0 ? ids.reduce((sum, id) => sum + weights[id]!, 0) : weights.reduce((sum, weight) => sum + weight, 0);
  let sum = 0;
  const end = ids.findIndex((id) => {
    sum += weights[id]!;
    return sum >= topP * mass;
  });
  if (topP < 1 && end >= 0) ids = ids.slice(0, end + 1);
  return ids.filter((id) => weights[id]! >= minP);
}

describe('adjustLogits', () => {
  it('divides positive and multiplies negative logits that were seen, prompt and answer alike, once each', () => {
    const got = adjustLogits(
      Float32Array.of(2, -2, 3, 0.5),
      { ...OFF, repeatPenalty: 2 },
      { prompt: [0, 0], answer: [1, 0] },
    );
    expect([...got]).toEqual([1, -4, 3, 0.5]);
  });

  it('subtracts presence once and frequency by the count, of the answer only', () => {
    const rules = { ...OFF, presencePenalty: 0.5, frequencyPenalty: 0.25 };
    expect([...adjustLogits(Float32Array.of(1, 1, 1), rules, { prompt: [2], answer: [0, 1, 0] })]).toEqual([
      0, 0.25, 1,
    ]);
  });

  it('leaves the logits it is given alone', () => {
    const logits = Float32Array.of(1, 2);
    adjustLogits(logits, { ...OFF, repeatPenalty: 3 }, { prompt: [0, 1], answer: [] });
    expect([...logits]).toEqual([1, 2]);
  });
});

describe('logprobs', () => {
  it('are those of the softmax, best first', () => {
    const { logprob, top } = logprobs(LOGITS, 3, 2);
    expect(logprob).toBeCloseTo(Math.log(0.075), 6);
    expect(top.map(({ tokenId }) => tokenId)).toEqual([0, 1]);
    expect(top[1]!.logprob).toBeCloseTo(Math.log(0.25), 6);
    expect(logprobs(LOGITS, 0, 0).top).toEqual([]);
  });
});

describe('Random', () => {
  it('repeats itself for a seed and not for another, beyond 32 bits too', () => {
    const draw = (seed: number) =>
      Array.from(
        { length: 4 },
        (
          (random) => () =>
            random.next()
        )(new Random(seed)),
      );
    expect(draw(5)).toEqual(draw(5));
    expect(new Set([0, 1, 2 ** 32, 2 ** 32 + 1, 2 ** 53 - 1].map((seed) => draw(seed).join())).size).toBe(5);
  });

  it('is uniform: 64 bins, 64,000 draws', () => {
    const random = new Random(3);
    const bins = new Array<number>(64).fill(0);
    for (let i = 0; i < 64_000; i++) bins[Math.floor(random.next() * 64)]!++;
    const chiSquare = bins.reduce((sum, count) => sum + (count - 1000) ** 2 / 1000, 0);
    expect(chiSquare).toBeLessThan(103.4); // 99.9th percentile, 63 degrees of freedom
    expect(chiSquare).toBeGreaterThan(33); // 0.1th: too even is not random either
  });
});

describe('rules for a device', () => {
  it('carry the number that the sampler would have taken', () => {
    const rules = { ...OFF, topK: 3, topP: 0.9 };
    const draw = drawRules(rules, 5, new Random(4));
    expect(draw).toEqual({ temperature: 1, topK: 3, topP: 0.9, minP: 0, vocabulary: 5, uniform: new Random(4).next() });
  });

  it('take none where the highest logit wins', () => {
    const random = new Random(4);
    expect(drawRules({ ...OFF, temperature: 0 }, 5, random).uniform).toBe(0);
    expect(random.next()).toBe(new Random(4).next());
  });

  it('are all that there is, unless the logits must be changed first', () => {
    expect(leavesLogits({ ...OFF, topK: 3, topP: 0.9, minP: 0.1 })).toBe(true);
    for (const rule of [
      { logitBias: new Map([[1, 2]]) },
      { repeatPenalty: 1.1 },
      { presencePenalty: 0.1 },
      { frequencyPenalty: 0.1 },
    ])
      expect(leavesLogits({ ...OFF, ...rule })).toBe(false);
  });
});
