import type { Paint } from './terminal.js';
import { WordWrap } from './word-wrap.js';

const LABEL_WIDTH = 12;

/** A row of a screen: a label, then text broken at the right margin and indented below itself. */
export function labelled(label: string, text: string, columns: number, paint: Paint): string {
  const wrap = new WordWrap(columns - LABEL_WIDTH, ' '.repeat(LABEL_WIDTH));
  const body = wrap.push(text) + wrap.end();
  return paint.bold(label.padEnd(LABEL_WIDTH)) + body.slice(LABEL_WIDTH);
}

export function rule(title: string, columns: number, paint: Paint): string {
  return paint.dim(`── ${title} ${'─'.repeat(Math.max(columns - title.length - 4, 0))}`);
}
