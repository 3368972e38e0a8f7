import { expect, it } from 'vitest';
import * as kernels from '../src/index.js';
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
