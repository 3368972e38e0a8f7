import { connect } from 'node:net';
import { describe, expect, it } from 'vitest';
import { wholeJson } from '../src/serve/whole-answer.js';
import { serve, start } from './serve-fixture.js';
import { ask, CHAT, chat, events, until } from './serve-harness.js';

describe('a slow reader', () => {
  it('pauses its own stream, with little kept for it, and is cut off', async () => {
    const { served, engine } = await serve(
      { text: () => 'x'.repeat(4000), contextLength: 100_000 },
      { slowReaderMs: 600 },
    );
    const { response } = start(served, chat({ max_tokens: 50_000, stream: true })); // never read
    await until(() => response() !== undefined);
    let before = -1;
    await until(() => {
      const still = engine.drawn === before;
      before = engine.drawn;
      return still && before > 0;
    });
    // 256 KB here, and what the system's sockets hold.
    expect(engine.drawn * 4000).toBeLessThan(16e6);
    await until(() => engine.held().sequences === 0);
    await until(() => served.state.requestsUnderWay === 0);
  });

  it('of a whole answer is cut off, too', async () => {
    const long = { text: () => 'x'.repeat(4000), contextLength: 100_000 };
    const { served } = await serve(long, { slowReaderMs: 300 });
    const { response } = start(served, chat({ max_tokens: 1000, n: 8 })); // 32 MB, never read
    await until(() => response() !== undefined);
    const sockets = () => process.getActiveResourcesInfo().filter((what) => what === 'TCPSocketWrap').length;
    const both = sockets(); // the server's and this process's own
    await until(() => sockets() < both, 10_000);
    expect((await ask(served, '/health')).status).toBe(200);
  });

  it('of a whole answer keeps its place until it has read, so that what is kept unread has an end', async () => {
    const long = { text: () => 'x'.repeat(4000), contextLength: 100_000 };
    const { served } = await serve(long, { maxRunning: 1, slowReaderMs: 60_000 });
    const first = start(served, chat({ max_tokens: 2000, n: 4 })); // 32 MB, not read yet
    await until(() => first.response() !== undefined);
    const second = ask(served, CHAT, { body: chat({ max_tokens: 1 }) });
    await until(() => served.state.admission.waiting === 1);
    expect(served.state.admission.running).toBe(1);
    let length = 0;
    for await (const chunk of first.response()!) length += chunk.length;
    expect(length).toBeGreaterThan(32e6);
    expect((await second).status).toBe(200);
    await until(() => served.state.admission.running === 0);
  });

  it('of a whole answer that takes a little of it now and then is cut off as well', async () => {
    const long = { text: () => 'x'.repeat(4000), contextLength: 100_000 };
    const { served } = await serve(long, { slowReaderMs: 400 });
    const { response } = start(served, chat({ max_tokens: 2000, n: 4 }));
    await until(() => response() !== undefined);
    const trickle = setInterval(() => response()!.read(1), 50);
    await until(() => served.state.admission.running === 0);
    clearInterval(trickle);
    expect(served.state.requestsUnderWay).toBe(0);
  });

  it('of many requests at once on one connection is cut off: all their answers would lie here', async () => {
    const { served } = await serve({});
    const pipelined = async (count: number) => {
      const socket = connect(served.port, '127.0.0.1');
      socket.on('error', () => {}); // cut off
      let text = '';
      socket.setEncoding('latin1').on('data', (chunk) => {
        text += chunk;
      });
      socket.write('GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n'.repeat(count - 1));
      socket.write('GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n');
      await new Promise((resolve) => socket.once('close', resolve));
      return text.match(/HTTP\/1\.1 200/g)?.length ?? 0;
    };
    expect(await pipelined(4)).toBe(4);
    expect(await pipelined(3000)).toBeLessThanOrEqual(4);
    expect(await pipelined(1)).toBe(1);
  });

  it('that wakes up in time gets everything', async () => {
    const { served } = await serve({ text: () => 'x'.repeat(4000), contextLength: 100_000 }, { slowReaderMs: 60_000 });
    const { response } = start(served, chat({ max_tokens: 2000, stream: true }));
    await until(() => response() !== undefined);
    await new Promise((resolve) => setTimeout(resolve, 200));
    let text = '';
    for await (const chunk of response()!) text += chunk;
    expect(events(text).at(-1)).toBe('[DONE]');
    expect(text.match(/x{4000}/g)).toHaveLength(2000);
  });
});

describe('a whole answer longer than one may be', () => {
  it('is a 400 that says to stream, and is drawn no further', async () => {
    const { served, engine } = await serve({ text: () => 'x'.repeat(1_000_000), contextLength: 100_000 });
    const { status, json } = await ask(served, CHAT, { body: chat({ max_tokens: 1000 }) });
    expect([status, json().error.code, json().error.param]).toEqual([400, 'answer_too_long', 'stream']);
    expect(engine.drawn).toBeLessThan(20);
    expect(served.reports).toEqual([]);
    const { text } = await ask(served, CHAT, { body: chat({ max_tokens: 20, stream: true }) });
    expect(text.length).toBeGreaterThan(20e6);
  });

  it('is known by V8’s limit, too', () => {
    const tooLong = { toJSON: () => 'x'.repeat(2 ** 30) };
    expect(() => wholeJson(tooLong)).toThrow('Expected stream to be true');
    expect(() => wholeJson({ toJSON: () => BigInt(1) })).toThrow(TypeError);
  });
});
