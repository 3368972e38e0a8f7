import { PassThrough } from 'node:stream';
import { expect, it } from 'vitest';
import { Terminal } from '../src/terminal.js';

it.each([
  [undefined, 80],
  [0, 80],
  [60, 60],
  [300, 100],
])('lays text out for a terminal of %s columns in %i', (has, columns) => {
  const stdout = Object.assign(new PassThrough(), has !== undefined && { columns: has });
  const streams = { stdin: new PassThrough(), stdout, stderr: new PassThrough() };
  expect(new Terminal(streams).columns).toBe(columns);
});
