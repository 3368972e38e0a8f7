import { selectBackend, status } from '@int-flash/attention';
import type { KvCacheView } from '@int-flash/ops';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { CallBudget } from '../src/call-budget.js';
import { loadRandomModel } from '../src/index.js';
import { attendCached } from '../src/layers/attention.js';
import { Pace } from '../src/pace.js';
import { Random } from '../src/random.js';

const COST = 2 ** 20;
const FIRST = 2 ** 28 / COST; // tokens of such a cost that a first call on the CPU takes

const names = status().backends.flatMap(({ name, available }) =>
  available && (name === 'cpu' || name === 'portable') ? [name] : [],
);

afterEach(() => {
  vi.restoreAllMocks();
});

/** A clock that a call puts forward by so many milliseconds a token. */
function clock(msPerToken: number): (from: number, to: number) => void {
  let now = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => now);
  return (from, to) => {
    now += (to - from) * msPerToken;
  };
}

async function partsOf(budget: CallBudget, tokens: number, spend: (from: number, to: number) => void, aCall = 0) {
  const parts: number[] = [];
  let end = 0;
  await budget.spend(tokens, { aCall, aToken: COST }, new Pace(), (from, to) => {
    expect(from).toBe(end);
    end = to;
    parts.push(to - from);
    spend(from, to);
  });
  expect(end).toBe(tokens);
  return parts;
}

describe('CallBudget', () => {
  it('starts with what a slow core does in some milliseconds, in even parts', async () => {
    expect(await partsOf(new CallBudget('cpu', true), FIRST, clock(0.01))).toEqual([FIRST]);
    expect(await partsOf(new CallBudget('cpu', true), FIRST + 1, clock(0.01))).toEqual([FIRST / 2, FIRST / 2 + 1]);
  });

  it('gives a fast machine more, a slow one less, down to 16 tokens a call', async () => {
    const budget = new CallBudget('cpu', true);
    const fast = clock(0.001); // 8,000 tokens in 8 ms
    for (let i = 0; i < 8; i++) await partsOf(budget, 8192, fast);
    expect(await partsOf(budget, 7900, fast)).toEqual([7900]);
    vi.restoreAllMocks();
    const slow = clock(4);
    for (let i = 0; i < 8; i++) await partsOf(budget, 128, slow);
    expect(await partsOf(budget, 128, slow)).toEqual(new Array(8).fill(16));
  });

  it('is not misled for long by a call that was interrupted', async () => {
    const budget = new CallBudget('cpu', true);
    const spend = clock(0.01);
    for (let i = 0; i < 8; i++) await partsOf(budget, 800, spend);
    await partsOf(budget, 800, (from, to) => spend(100 * from, 100 * to));
    for (let i = 0; i < 8; i++) await partsOf(budget, 800, spend);
    expect(await partsOf(budget, 790, spend)).toEqual([790]);
  });

  it('cuts always alike where it may not learn', async () => {
    const budget = new CallBudget('cpu', false);
    for (const msPerToken of [0.001, 4]) {
      expect(await partsOf(budget, 4 * FIRST, clock(msPerToken))).toEqual(new Array(4).fill(FIRST));
      vi.restoreAllMocks();
    }
  });

  it('leaves no part of 8 tokens or fewer', async () => {
    const budget = new CallBudget('cpu', true);
    const slow = clock(1000);
    for (let tokens = 17; tokens < 200; tokens++) {
      expect(Math.min(...(await partsOf(budget, tokens, slow))), `${tokens} tokens`).toBeGreaterThan(8);
    }
  });

  it('gives no call less than what each costs anyway', async () => {
    const budget = new CallBudget('cpu', true);
    const slow = clock(4);
    for (let i = 0; i < 8; i++) await partsOf(budget, 300, slow, 100 * COST);
    expect(await partsOf(budget, 300, slow, 100 * COST)).toEqual([100, 100, 100]);
  });

  it('lets others have their turn between calls, and hears a signal there', async () => {
    const controller = new AbortController();
    let calls = 0;
    const spent = new CallBudget('portable', false).spend(
      1000,
      { aCall: 0, aToken: 2 ** 20 },
      new Pace(controller.signal),
      () => {
        calls++;
        controller.abort(new Error('enough'));
        const end = performance.now() + 9;
        while (performance.now() < end);
      },
    );
    await expect(spent).rejects.toThrow('enough');
    expect(calls).toBe(1);
  });
});

describe('a prompt, its steps cut by the clock', () => {
  const SHAPE = {
    architectures: ['Qwen2ForCausalLM'],
    model_type: 'qwen2',
    vocab_size: 97,
    hidden_size: 64,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 16,
    intermediate_size: 96,
    max_position_embeddings: 2048,
    sliding_window: 40,
    use_sliding_window: true,
    max_window_layers: 1, // layers of both kinds
  };
  const ids = Array.from({ length: 640 }, (_, i) => (i * 31) % 97);
  const random = new Random(3);
  /** Milliseconds from one look at the clock to the next: calls seem to take nothing, a second, or anything. */
  const CLOCKS: Readonly<Record<string, () => number>> = {
    fast: () => 0,
    slow: () => 1000,
    erratic: () => 10 ** (6 * random.next() - 3),
  };

  it.each(names)('%s: has the same bits', async (backend) => {
    for (const [attention, kvCacheDtype] of [
      ['int8', 'int8'],
      ['int8', 'int4'],
      ['int8', 'fp16'],
      ['fp32', 'fp16'],
      ['fp32', 'fp32'],
      ['fp32', 'int8'],
    ] as const) {
      const answers: Float32Array[] = [];
      for (const tick of Object.values(CLOCKS)) {
        await using model = await loadRandomModel(SHAPE, { backend, attention, kvCacheDtype });
        let now = 0;
        vi.spyOn(performance, 'now').mockImplementation(() => {
          now += tick();
          return now;
        });
        const runs = vi.spyOn(CallBudget.prototype, 'spend');
        answers.push(await model.logits(ids));
        expect(runs).toHaveBeenCalled();
        vi.restoreAllMocks();
      }
      for (const answer of answers) expect(answer, `${attention} over ${kvCacheDtype}`).toEqual(answers[0]);
    }
  });
});

describe('attention on a cache, cut into parts', () => {
  const [heads, kvHeads, headDim, length, tokens] = [4, 2, 32, 1300, 60];
  const random = new Random(7);
  const floats = (count: number) => Float32Array.from({ length: count }, () => 2 * random.next() - 1);
  const codes = (count: number) => Int8Array.from({ length: count }, () => Math.round(254 * random.next() - 127));
  const scales = () => floats(kvHeads * length).map((x) => 0.01 + Math.abs(x) * 0.01);
  const rows = kvHeads * length * headDim;
  const shape = { kvHeads, headDim, capacity: length, length };
  const coded = () => ({ keyScales: scales(), valueScales: scales() });
  const nibbles = () => new Uint8Array(codes(rows / 2).buffer);
  const caches: KvCacheView[] = [
    { ...shape, type: 'int8', keys: codes(rows), values: codes(rows), ...coded() },
    { ...shape, type: 'int4', keys: nibbles(), values: nibbles(), ...coded() },
    { ...shape, type: 'fp32', keys: floats(rows), values: floats(rows) },
  ];
  const query = floats(tokens * heads * headDim);

  it.each(names)('%s: the bits of the whole', (name) => {
    const backend = selectBackend(name);
    const row = heads * headDim;
    for (const cache of caches) {
      const choice = cache.type === 'fp32' ? 'fp32' : 'int8';
      const attend = (from: number, to: number) => {
        const out = new Float32Array((to - from) * row);
        const seen = { ...cache, length: length - tokens + to };
        const attended = { heads, scale: 0.2, windowLeft: Infinity };
        attendCached(backend, choice, attended, query.slice(from * row, to * row), to - from, seen, out);
        return [...out];
      };
      const whole = attend(0, tokens);
      for (const cuts of [
        [0, 30, 60],
        [0, 9, 18, 35, 51, 60],
      ]) {
        const parts = cuts.slice(1).flatMap((to, i) => attend(cuts[i]!, to));
        expect(parts, `${cache.type} ${cuts}`).toEqual(whole);
      }
    }
  });
});
