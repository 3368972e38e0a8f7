import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StopStrings } from '../src/stop-strings.js';

// A small alphabet makes overlaps and near-misses common.
const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c', '😀'), maxLength: 40 });
const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c', '😀'), minLength: 1, maxLength: 4 }), {
  maxLength: 3,
});

/** What must come out: everything before the first stop string. */
function before(all: string, stopped: readonly string[]): string {
  const starts = stopped.map((stop) => all.indexOf(stop)).filter((start) => start >= 0);
  return starts.length > 0 ? all.slice(0, Math.min(...starts)) : all;
}

describe('StopStrings', () => {
  it('gives the same text however it was cut, and takes nothing back', () => {
    fc.assert(
      fc.property(fc.array(text, { maxLength: 12 }), stops, (pieces, stopped) => {
        const watcher = new StopStrings(stopped);
        const all = pieces.join('');
        let out = '';
        for (const piece of pieces) {
          out += watcher.push(piece);
          expect(before(all, stopped).startsWith(out)).toBe(true);
        }
        out += watcher.flush();
        expect(out).toBe(before(all, stopped));
        expect(watcher.found).toBe(stopped.some((stop) => all.includes(stop)));
      }),
      { seed: 1, numRuns: 1500 },
    );
  });

  it('holds back no more than might become a stop string', () => {
    fc.assert(
      fc.property(text, stops, (all, stopped) => {
        const watcher = new StopStrings(stopped);
        const out = watcher.push(all);
        if (watcher.found) return;
        const held = all.slice(out.length);
        expect(held === '' || stopped.some((stop) => stop.startsWith(held) && stop.length > held.length)).toBe(true);
      }),
      { seed: 2, numRuns: 1000 },
    );
  });

  it('waits for the earlier of two that overlap', () => {
    const watcher = new StopStrings(['abcd', 'c']);
    expect([watcher.push('xab'), watcher.push('c'), watcher.push('d'), watcher.flush()]).toEqual(['x', '', '', '']);
    expect(watcher.found).toBe(true);
  });
});
