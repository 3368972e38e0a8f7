import { CHAT, chat, open } from '../test/serve-harness.js';
import type { Finding } from './record.js';
import { startMockServer } from './server-process.js';

const DISCONNECTS = 500;
const AT_ONCE = 50;

/** S4: clients that hang up at random moments, streamed or not, waiting or running. */
export async function disconnects(): Promise<Finding[]> {
  const server = await startMockServer({ tokenMs: 2, maxRunning: 8, maxWaiting: 64 });
  let left = DISCONNECTS;
  const work = async () => {
    while (left-- > 0) {
      const outgoing = open(server, CHAT, { body: chat({ max_tokens: 900, stream: left % 2 === 0 }) }, (response) => {
        response.on('error', () => {}).resume();
      });
      outgoing.on('error', () => {});
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 150));
      outgoing.destroy();
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  await new Promise((resolve) => setTimeout(resolve, 250)); // what a step and the news of it may take
  const { sequences, kvCacheBytes, running, underWay, failures } = await server.stats();
  await server.stop();
  return [
    {
      what: `places still taken 250 ms after ${DISCONNECTS} hung up`,
      value: running + underWay,
      unit: 'places',
      bound: 0,
    },
    { what: 'sequences still held', value: sequences, unit: 'sequences', bound: 0 },
    { what: 'cache still held', value: kvCacheBytes, unit: 'bytes', bound: 0 },
    { what: 'failures of the server', value: failures, unit: 'failures', bound: 0 },
  ];
}
