import { expect, it } from 'vitest';
import { TurnTaking } from '../src/serve/turn-taking.js';
import { TurnCount } from './turn-count.js';

/** Holds the thread, as judging a request does. */
function work(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end; );
}

it('does work that came together in order, with turns of the event loop between', async () => {
  const turns = new TurnTaking();
  const loop = new TurnCount();
  const order: number[] = [];
  const seen = new Map<number, number>();
  await Promise.all(
    Array.from({ length: 20 }, async (_, i) => {
      await turns.enter();
      order.push(i);
      seen.set(loop.turns, (seen.get(loop.turns) ?? 0) + 1);
      work(2);
    }),
  );
  loop.stop();
  expect(order).toEqual(Array.from({ length: 20 }, (_, i) => i));
  expect(Math.max(...seen.values())).toBeLessThanOrEqual(2); // of 2 ms each in a slice of 4
});

it('goes on after a caller that failed', async () => {
  const turns = new TurnTaking();
  const failing = (async () => {
    await turns.enter();
    throw new Error('bad request');
  })();
  await expect(failing).rejects.toThrow('bad request');
  await turns.enter();
});
