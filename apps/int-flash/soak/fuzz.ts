import { Agent } from 'node:http';
import fc from 'fast-check';
import { fuzzedRequest, isTyped } from '../test/fuzzed-request.js';
import { ask, CHAT } from '../test/serve-harness.js';
import type { Finding } from './record.js';
import { startMockServer } from './server-process.js';

const REQUESTS = 50_000;
const AT_ONCE = 32;

/** S9: bodies of every kind; no answer but the expected kinds, and every refusal in the API's form. */
export async function fuzz(): Promise<Finding[]> {
  const server = await startMockServer({ maxRunning: 16, maxWaiting: 8 });
  const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });
  const seed = Date.now() % 2 ** 31;
  console.log(`  seed ${seed}`);
  const requests = fc.sample(fuzzedRequest, { numRuns: REQUESTS, seed });
  const counts = new Map<number, number>();
  let untyped = 0;
  let at = 0;
  const work = async () => {
    for (;;) {
      const next = requests[at++];
      if (!next) return;
      const reply = await ask(server, next.path ?? CHAT, { ...next, agent }).catch(() => undefined);
      counts.set(reply?.status ?? 0, (counts.get(reply?.status ?? 0) ?? 0) + 1);
      if (reply && reply.status >= 400 && !isTyped(reply.text)) untyped++;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  agent.destroy();
  const { failures, sequences } = await server.stats();
  await server.stop();
  const expected = (status: number) => (status >= 200 && status < 500) || status === 503;
  const odd = [...counts].filter(([status]) => !expected(status)).reduce((sum, [, count]) => sum + count, 0);
  return [
    { what: `answers other than 2xx, 4xx, 503 of ${REQUESTS}`, value: odd, unit: 'answers', bound: 0 },
    { what: 'refusals not in the form {error}', value: untyped, unit: 'answers', bound: 0 },
    { what: 'failures of the server', value: failures, unit: 'failures', bound: 0 },
    { what: 'sequences held at the end', value: sequences, unit: 'sequences', bound: 0 },
    { what: 'answers with 2xx', value: counts.get(200) ?? 0, unit: 'answers' },
  ];
}
