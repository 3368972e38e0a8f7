import { type DrawRules, IntFlashError } from '@int-flash/ops';
import type { Random } from './random.js';

/** How the next token is drawn. Applied in the order of the fields. */
export interface SamplingRules {
  /** Added to the logits of these ids; −Infinity bans one. */
  readonly logitBias: ReadonlyMap<number, number>;
  /** Divides positive, multiplies negative logits of every id in prompt and answer; 1 = off. From CTRL, arXiv:1909.05858. */
  readonly repeatPenalty: number;
  /** Subtracted from the logit of each id the answer holds; 0 = off. */
  readonly presencePenalty: number;
  /** Subtracted once for each time the answer holds the id; 0 = off. */
  readonly frequencyPenalty: number;
  /** Divides the logits; 0 = the highest logit wins, and nothing below matters. */
  readonly temperature: number;
  /** Keep the k most probable; 0 = all. */
  readonly topK: number;
  /** Then the fewest whose probabilities reach p together; 1 = all. */
  readonly topP: number;
  /** Then those at least this part as probable as the most probable; 0 = all. */
  readonly minP: number;
}

/** The ids so far. */
export interface SampleHistory {
  readonly prompt: readonly number[];
  readonly answer: readonly number[];
}

export interface Candidate {
  readonly id: number;
  /** Under the rules, renormalised over what they leave. */
  readonly probability: number;
}

export interface TokenLogprob {
  readonly tokenId: number;
  /** Natural log of the model's own probability, before any rule. */
  readonly logprob: number;
}

/**
 * Draws one id.
 *
 * @param logits [vocabSize], left as they are.
 * @throws {IntFlashError} `ERR_NONFINITE` where one is NaN, the highest is infinite, or all are banned.
 */
export function sample(logits: Float32Array, rules: SamplingRules, history: SampleHistory, random: Random): number {
  const scores = adjustLogits(logits, rules, history);
  if (rules.temperature === 0) return indexOfMax(scores);
  const { kept, weights, mass } = cut(scores, rules);
  let rest = random.next();
  for (const id of kept) {
    rest -= weights[id]! / mass;
    if (rest < 0) return id;
  }
  return kept[kept.length - 1]!; // rounding left a crumb of probability behind the last one
}

/** Whether no bias or penalty changes a logit. A device can draw by such rules: it has the logits, and not what they would be changed by. */
export function leavesLogits({ logitBias, repeatPenalty, presencePenalty, frequencyPenalty }: SamplingRules): boolean {
  return logitBias.size === 0 && repeatPenalty === 1 && presencePenalty === 0 && frequencyPenalty === 0;
}

/**
 * The rules as a device draws by them, and the number that {@link sample} would have taken from `random`.
 *
 * @param vocabulary Ids below it may be drawn.
 */
export function drawRules(
  { temperature, topK, topP, minP }: SamplingRules,
  vocabulary: number,
  random: Random,
): DrawRules {
  return { temperature, topK, topP, minP, vocabulary, uniform: temperature === 0 ? 0 : random.next() };
}

/** The logits after bias and penalties: a copy, or the very ones where those change nothing. */
export function adjustLogits(
  logits: Float32Array,
  rules: SamplingRules,
  { prompt, answer }: SampleHistory,
): Float32Array {
  if (leavesLogits(rules)) return logits;
  const scores = logits.slice();
  for (const [id, bias] of rules.logitBias) if (id < scores.length) scores[id]! += bias;
  const { repeatPenalty, presencePenalty, frequencyPenalty } = rules;
  if (repeatPenalty !== 1) {
    for (const id of new Set([...prompt, ...answer])) {
      scores[id] = scores[id]! > 0 ? scores[id]! / repeatPenalty : scores[id]! * repeatPenalty;
    }
  }
  if (presencePenalty !== 0) for (const id of new Set(answer)) scores[id]! -= presencePenalty;
  if (frequencyPenalty !== 0) for (const id of answer) scores[id]! -= frequencyPenalty;
  return scores;
}

/**
 * What temperature, top-k, top-p and min-p leave of adjusted logits; the most probable first (ties by id) if any of them cuts.
 *
 * @throws as {@link sample}.
 */
export function distribution(scores: Float32Array, rules: SamplingRules): Candidate[] {
  const { kept, weights, mass } = cut(scores, rules);
  return kept.map((id) => ({ id, probability: weights[id]! / mass }));
}

/** {@link distribution} before it is normalised: the ids that stay, every id's weight, and the weight of those that stay. */
function cut(scores: Float32Array, rules: SamplingRules): { kept: number[]; weights: Float64Array; mass: number } {
  const { topK, topP, minP } = rules;
  const weights = weightsOf(scores, rules.temperature);
  let kept =
    topK > 0 ? highestByCount(weights, topK) : topP < 1 ? highestByMass(weights, topP) : idsFrom(weights, MIN_VALUE);
  if (topK > 0 && topP < 1) kept = cutByMass(kept, weights, topP);
  if (minP > 0) kept = kept.filter((id) => weights[id]! >= minP); // the highest weight is 1
  return { kept, weights, mass: total(kept, weights) };
}

/**
 * Log-probabilities of the model itself: of one id, and of the `top` most probable.
 *
 * @param logits [vocabSize]
 * @throws as {@link sample}.
 */
export function logprobs(logits: Float32Array, id: number, top: number): { logprob: number; top: TokenLogprob[] } {
  const norm = logSumExp(logits);
  const best = top > 0 ? highestByCount(weightsOf(logits, 1), top) : [];
  return {
    logprob: logits[id]! - norm,
    top: best.map((tokenId) => ({ tokenId, logprob: logits[tokenId]! - norm })),
  };
}

/** ln Σ e^x in float64. @throws as {@link sample}. */
export function logSumExp(values: Float32Array): number {
  const maximum = values[indexOfMax(values)]!;
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += Math.exp(values[i]! - maximum);
  return maximum + Math.log(sum);
}

/** The first of the highest. @throws as {@link sample}. */
function indexOfMax(values: Float32Array): number {
  let best = 0;
  let highest = -Infinity;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value <= highest) continue; // never true of NaN, which is found without a comparison more
    highest = value;
    best = i;
    if (Number.isNaN(value)) break;
  }
  if (Number.isFinite(highest)) return best;
  throw new IntFlashError('ERR_NONFINITE', `Expected the highest logit to be finite, got ${highest}`, {
    hint:
      highest === -Infinity
        ? 'A logitBias of -Infinity bans a token: leave one that is not banned.'
        : 'Weights of the model, or products of them, are too large for float32.',
  });
}

/** e^((score − highest) / temperature) of every score. A plain loop: this runs for every token of every answer, on the event loop. */
function weightsOf(scores: Float32Array, temperature: number): Float64Array {
  const maximum = scores[indexOfMax(scores)]!;
  const weights = new Float64Array(scores.length);
  for (let id = 0; id < scores.length; id++) weights[id] = Math.exp((scores[id]! - maximum) / temperature);
  return weights;
}

// Sorting a vocabulary of 100,000 and more for every token would cost more than small models do, so only those are sorted that
// lie above a threshold below which nothing can be wanted: the first of these that leaves enough.
const MIN_VALUE = 5e-324;
const THRESHOLDS = [2 ** -6, 2 ** -12, 2 ** -24, MIN_VALUE];

function highestByCount(weights: Float64Array, count: number): number[] {
  for (const threshold of THRESHOLDS) {
    const ids = idsFrom(weights, threshold);
    if (ids.length >= count || threshold === MIN_VALUE) return sortDown(ids, weights).slice(0, count);
  }
  return [];
}

function highestByMass(weights: Float64Array, part: number): number[] {
  let mass = 0;
  for (let id = 0; id < weights.length; id++) mass += weights[id]!;
  for (const threshold of THRESHOLDS) {
    const ids = idsFrom(weights, threshold);
    if (total(ids, weights) >= part * mass || threshold === MIN_VALUE)
      return cutByMass(sortDown(ids, weights), weights, part, mass);
  }
  return [];
}

/** The shortest beginning of `ids` whose weights come to `part` of `mass`; one id at least. */
function cutByMass(ids: number[], weights: Float64Array, part: number, mass = total(ids, weights)): number[] {
  let sum = 0;
  const end = ids.findIndex((id) => {
    sum += weights[id]!;
    return sum >= part * mass;
  });
  return end < 0 ? ids : ids.slice(0, end + 1);
}

function idsFrom(weights: Float64Array, threshold: number): number[] {
  const ids: number[] = [];
  for (let id = 0; id < weights.length; id++) if (weights[id]! >= threshold) ids.push(id);
  return ids;
}

function sortDown(ids: number[], weights: Float64Array): number[] {
  return ids.sort((a, b) => weights[b]! - weights[a]! || a - b);
}

function total(ids: readonly number[], weights: Float64Array): number {
  let sum = 0;
  for (const id of ids) sum += weights[id]!;
  return sum;
}
