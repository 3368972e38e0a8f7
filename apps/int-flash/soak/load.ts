import { chat } from '../test/serve-harness.js';
import { readStream } from './event-reader.js';
import { type Finding, quantile, round } from './record.js';
import { startMockServer } from './server-process.js';

const STREAMS = 1000;
const TOKENS = 100;
const TOKEN_MS = 50;

/** S7: a thousand streams at 20 tokens a second. The reader shares the cores, so gaps hold its own delays, too. */
export async function load(): Promise<Finding[]> {
  const server = await startMockServer({ tokenMs: TOKEN_MS, maxRunning: STREAMS });
  const { cpuMs } = await server.stats();
  let rss = 0;
  const watch = setInterval(async () => {
    rss = Math.max(rss, (await server.stats()).rss);
  }, 1000);
  const streams = await Promise.all(
    Array.from({ length: STREAMS }, async (_, i) => {
      await new Promise((resolve) => setTimeout(resolve, i)); // a thousand connections in the same millisecond would meet no accept queue
      return readStream(server.port, chat({ max_tokens: TOKENS, stream: true }));
    }),
  );
  clearInterval(watch);
  const processorMs = (await server.stats()).cpuMs - cpuMs;
  const lost = streams.filter(({ isWhole }) => !isWhole).length;
  const missing = streams.reduce(
    (sum, { text }) => sum + Math.max(TOKENS - (text.match(/"content":"w/g)?.length ?? 0), 0),
    0,
  );
  const gaps = streams.flatMap(({ times }) => times.slice(1).map((time, i) => time - times[i]!));
  await server.stop();
  return [
    { what: `streams lost of ${STREAMS}`, value: lost, unit: 'streams', bound: 0 },
    { what: `tokens lost of ${STREAMS * TOKENS}`, value: missing, unit: 'tokens', bound: 0 },
    { what: 'gap between events, p99', value: round(quantile(gaps, 0.99)), unit: 'ms', bound: 120 },
    {
      what: 'processor time of the server for a token of one stream',
      value: round((processorMs * 1000) / (STREAMS * TOKENS)),
      unit: 'µs',
    },
    { what: 'resident memory of the server, at most', value: round(rss / 1e6), unit: 'MB', bound: 200 },
  ];
}
