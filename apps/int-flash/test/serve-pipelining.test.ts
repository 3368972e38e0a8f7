import { connect } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { serve } from './serve-fixture.js';
import { CHAT, chat, type Served, until } from './serve-harness.js';

const warnings: Error[] = [];
const warn = (warning: Error) => warnings.push(warning);
beforeEach(() => {
  process.on('warning', warn);
});
afterEach(() => {
  process.off('warning', warn);
  warnings.length = 0;
});

/** Requests sent at once on one connection. */
function pipeline({ port }: Served, requests: readonly Record<string, unknown>[]) {
  const socket = connect(port, '127.0.0.1').setEncoding('latin1');
  socket.on('error', () => {}); // cut off
  for (const request of requests) {
    const body = JSON.stringify(request);
    const headers = `host: localhost\r\ncontent-type: application/json\r\ncontent-length: ${body.length}`;
    socket.write(`POST ${CHAT} HTTP/1.1\r\n${headers}\r\n\r\n${body}`);
  }
  return socket;
}

describe('requests at once on one connection', () => {
  it.each([true, false])('end with it, their answers begun or not: stream %s', async (stream) => {
    const long = { tokenMs: 1, text: () => 'x'.repeat(stream ? 4000 : 1), contextLength: 1_000_000 };
    const { served, engine } = await serve(long);
    const asked = chat({ n: 8, max_tokens: 900_000, stream });
    const socket = pipeline(served, [asked, asked, asked, asked]); // never read
    await until(() => engine.held().sequences === 32);
    if (stream) {
      let before = -1;
      await until(() => {
        const isPaused = engine.drawn === before;
        before = engine.drawn;
        return isPaused;
      });
    }
    socket.destroy();
    await until(() => engine.held().sequences === 0);
    await until(() => served.state.requestsUnderWay === 0);
    expect(served.state.admission.running).toBe(0);
    expect(served.reports).toEqual([]);
    expect(warnings).toEqual([]);
  });

  it.each([true, false])('have the time of a slow reader each from its turn: stream %s', async (stream) => {
    const { served } = await serve({ tokenMs: 20, text: () => 'x'.repeat(20_000) }, { slowReaderMs: 400 });
    // The first and the last take longer than a slow reader may; the second has more to say than is kept for one, the third is short.
    const asked = [{ max_tokens: 40 }, { max_tokens: 20, stream }, { max_tokens: 1, stream }, { max_tokens: 80 }];
    const socket = pipeline(served, asked.map(chat));
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
    });
    const closed = new Promise((resolve) => socket.once('close', resolve));
    const whole = () => text.match(/x{20000}/g)?.length === 141;
    await Promise.race([closed, until(whole)]);
    expect(text.match(/x{20000}/g)).toHaveLength(141);
    expect(text.match(/HTTP\/1\.1 200/g)).toHaveLength(4);
    socket.destroy();
    await closed;
  });
});
