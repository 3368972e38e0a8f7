import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import * as kernels from '../src/index.js';
import { CEILINGS } from './ceilings.js';
import { readmeExamples } from './readme-examples.js';

it('README’s examples use what the package exports, and do nothing without a GPU', async () => {
  const examples = readmeExamples();
  expect(examples).toHaveLength(3);
  for (const { imports, run } of examples) {
    expect(Object.keys(kernels)).toEqual(expect.arrayContaining(imports));
    const none = { ...kernels, cudaStatus: () => ({ available: false }) };
    await run(none, { log: () => expect.unreachable('an example that prints without a GPU') });
  }
});

it('README states how far an answer may be from float64 as the GPU tests judge it', () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  for (const [precision, { relativeL2, element, lse }] of Object.entries(CEILINGS))
    expect(readme).toContain(`\n| \`${precision}\` | ${relativeL2} | ${element} | ${lse} |\n`);
});
