import fc from 'fast-check';
import { expect, it } from 'vitest';
import { fuzzedRequest, isTyped } from './fuzzed-request.js';
import { mockEngine } from './mock-engine.js';
import { ask, CHAT, startServer } from './serve-harness.js';

// The long form, 50,000 requests: npm run soak -- fuzz.
it('answers anything with 2xx, 4xx or 503, and refuses in the API’s form', { timeout: 60_000 }, async () => {
  const engine = mockEngine();
  const served = await startServer(engine);
  const statuses = new Set<number>();
  await fc.assert(
    fc.asyncProperty(fuzzedRequest, async (request) => {
      const { status, text } = await ask(served, request.path ?? CHAT, request);
      statuses.add(status);
      expect((status >= 200 && status < 500) || status === 503, `${status} ${text}`).toBe(true);
      if (status >= 400) expect(isTyped(text), text).toBe(true);
    }),
    { numRuns: 500 },
  );
  expect(served.reports).toEqual([]);
  expect(engine.held().sequences).toBe(0);
  expect([...statuses]).toEqual(expect.arrayContaining([200, 400]));
  await served.close();
});
