import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { WordWrap } from '../src/word-wrap.js';

function wrapped(pieces: readonly string[], width: number, indent = ''): string {
  const wrap = new WordWrap(width, indent);
  return pieces.map((piece) => wrap.push(piece)).join('') + wrap.end();
}

describe('WordWrap', () => {
  it('breaks between words and indents every line', () => {
    expect(wrapped(['one two three four'], 9, '> ')).toBe('> one two\n> three\n> four');
  });

  it('keeps line feeds, also empty lines', () => {
    expect(wrapped(['one\n\n two'], 20)).toBe('one\n\ntwo');
  });

  it('makes the same lines however the text is cut, none too long, no word lost', () => {
    const word = fc.string({ minLength: 1, maxLength: 8, unit: fc.constantFrom('a', 'b', 'ü', '☺') });
    fc.assert(
      fc.property(fc.array(word), fc.array(fc.nat(60)), (words, cuts) => {
        const text = words.join(' ');
        const places = [0, ...cuts.filter((cut) => cut < text.length).sort((a, b) => a - b), text.length];
        const pieces = places.slice(1).map((to, i) => text.slice(places[i], to));
        const lines = wrapped(pieces, 12, '  ').split('\n');
        expect(lines.join('\n')).toBe(wrapped([text], 12, '  '));
        for (const line of lines) expect([...line].length).toBeLessThanOrEqual(14);
        expect(lines.map((line) => line.trim()).join(' ')).toBe(text);
      }),
    );
  });
});
