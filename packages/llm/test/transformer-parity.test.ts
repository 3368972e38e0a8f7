import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { selectBackend } from '@int-flash/attention';
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../src/checkpoint.js';
import { loadWeights } from '../src/model-weights.js';
import { Pace } from '../src/pace.js';
import { Transformer } from '../src/transformer.js';

interface Golden {
  readonly prompts: readonly { ids: number[]; logits: number[]; greedy_ids: number[]; smallest_gap: number }[];
}

const root = fileURLToPath(new URL('./goldens/', import.meta.url));
const names = readdirSync(root).filter((name) => existsSync(`${root}${name}/golden.json`));

// Float32 all through on both sides; only the order of sums differs. Logits of these models are of size 1 to 30, of which
// float32 resolves 2e-6, and 2 layers of sums of 32 to 96 terms add a few times that. The bound is 1e-3; these
// checkpoints come to 1e-5 or better, so a wrong epsilon (1e-6 for 1e-5 moves them by more) must show.
const MAX_ERROR = 5e-5;

describe('the transformer against transformers', () => {
  it('covers every architecture and rotary scaling', () => {
    expect(names.length).toBeGreaterThanOrEqual(8);
  });

  it.each(names)('%s: logits and greedy continuations', async (name) => {
    const backend = selectBackend('portable');
    await using checkpoint = await openCheckpoint(root + name);
    const weights = await loadWeights(checkpoint, backend, 'auto');
    const { config } = checkpoint;
    const model = new Transformer(config, weights, backend);
    const golden = JSON.parse(readFileSync(`${root}${name}/golden.json`, 'utf8')) as Golden;
    for (const prompt of golden.prompts) {
      const cache = model.createCache('fp32', 'fp32');
      const run = { cache, attention: 'fp32', pace: new Pace() } as const;
      let logits = await model.forward(prompt.ids, run);
      const errors = prompt.logits.map((value, id) => Math.abs(value - logits[id]!));
      expect(Math.max(...errors), `max abs error after ${prompt.ids.length} tokens`).toBeLessThan(MAX_ERROR);
      expect(logits.length).toBe(prompt.logits.length);
      // A path is only binding where its best two logits lie further apart than twice the error.
      expect(prompt.smallest_gap).toBeGreaterThan(2 * MAX_ERROR);
      const path: number[] = [];
      while (path.length < prompt.greedy_ids.length) {
        path.push(logits.indexOf(Math.max(...logits)));
        logits = await model.forward(path.slice(-1), run);
      }
      expect(path).toEqual(prompt.greedy_ids);
      cache.dispose();
    }
    weights.dispose();
    expect(backend.liveBytes()).toBe(0);
  });
});
