import { afterEach, describe, expect, it, vi } from 'vitest';
import { Pace } from '../src/pace.js';

describe('Pace', () => {
  afterEach(() => vi.restoreAllMocks());

  it('runs what has signals of its own within the same slices', async () => {
    let now = 1000;
    vi.spyOn(performance, 'now').mockImplementation(() => now);
    const controller = new AbortController();
    const outer = new Pace();
    now += 7;
    const inner = outer.with(controller.signal);
    expect([outer.isDue, inner.isDue]).toEqual([false, false]);
    now += 2;
    expect([outer.isDue, inner.isDue]).toEqual([true, true]);
    await inner.rest();
    expect([outer.isDue, inner.isDue]).toEqual([false, false]);
    now += 9;
    controller.abort('enough');
    await outer.rest();
    expect(inner.isDue).toBe(false);
    await expect(inner.rest()).rejects.toBe('enough');
  });
});
