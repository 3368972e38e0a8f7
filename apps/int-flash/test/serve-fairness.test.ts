import { loadModel } from '@int-flash/llm';
import { expect, it } from 'vitest';
import { llmEngine } from '../src/serve/llm-engine.js';
import { DEMO_MODEL } from './run-command.js';
import { ask, CHAT, chat, open, startServer } from './serve-harness.js';

const RUNNING = 64;
const WAITING = 64;
const TOKENS = 32;

const END_TOKEN = 1;
/** An event a token, even where it has no text; and as many tokens as are asked for. */
const STREAM = chat({ stream: true, max_tokens: TOKENS, logprobs: true, logit_bias: { [END_TOKEN]: -100 } });

interface Stream {
  readonly isWhole: boolean;
  /** Tokens of all streams that had come with its first token … */
  readonly begin: number;
  /** … and with its last. */
  readonly end: number;
}

/** Times are told in tokens, not in milliseconds, which are the machine's too: those are held by `npm run soak`. */
function streamTogether(port: number): Promise<Stream[]> {
  let clock = 0;
  const read = () =>
    new Promise<Stream>((resolve, reject) => {
      const outgoing = open({ port }, CHAT, { body: STREAM }, (response) => {
        let rest = '';
        let isWhole = false;
        let begin: number | undefined;
        response.setEncoding('utf8').on('data', (chunk: string) => {
          const events = (rest + chunk).split('\n\n');
          rest = events.pop()!;
          const tokens = events.filter((event) => event.includes('"logprobs":{')).length;
          clock += tokens;
          if (tokens > 0) begin ??= clock;
          isWhole ||= events.includes('data: [DONE]');
        });
        response.on('end', () => resolve({ isWhole, begin: begin!, end: clock }));
      });
      outgoing.on('error', reject);
    });
  return Promise.all(Array.from({ length: RUNNING + WAITING }, read));
}

it('draws 64 streams of the shipped model side by side, 64 behind them, and is heard meanwhile', {
  timeout: 180_000,
}, async () => {
  const engine = llmEngine(await loadModel(DEMO_MODEL), 'int-flash-demo');
  const served = await startServer(engine, { maxRunning: RUNNING, maxWaiting: WAITING });
  try {
    const streams = streamTogether(served.port);
    let health = 0;
    let isDone = false;
    const probe = (async () => {
      for (; !isDone; health++) expect((await ask(served, '/health')).status).toBe(200);
    })();
    const all = await streams;
    isDone = true;
    await probe;
    expect(all.filter(({ isWhole }) => isWhole)).toHaveLength(RUNNING + WAITING);
    const together = all.sort((a, b) => a.begin - b.begin).slice(0, RUNNING);
    const took = together.map(({ begin, end }) => end - begin);
    expect(Math.max(...took) / Math.min(...took)).toBeLessThanOrEqual(3);
    expect(health).toBeGreaterThan(10);
    expect(engine.held().sequences).toBe(0);
  } finally {
    await served.close();
    await engine.dispose();
  }
});
