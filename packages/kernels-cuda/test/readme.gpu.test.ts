import { describe, expect, it } from 'vitest';
import { cudaStatus } from '../src/cuda-status.js';
import * as kernels from '../src/index.js';
import { readmeExamples } from './readme-examples.js';

describe.skipIf(!cudaStatus().available)('README', () => {
  it.each(readmeExamples().map(({ run }, index) => ({ run, index })))(
    'example $index runs and prints',
    async ({ run }) => {
      const printed: unknown[][] = [];
      await run(kernels, { log: (...values: unknown[]) => printed.push(values) });
      expect(printed.length).toBeGreaterThan(0);
      for (const value of printed.flat().filter((each) => typeof each === 'number')) expect(value).not.toBeNaN();
    },
  );
});
