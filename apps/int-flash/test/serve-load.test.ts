import { once } from 'node:events';
import { connect } from 'node:net';
import { IntFlashError } from '@int-flash/ops';
import { describe, expect, it } from 'vitest';
import { unavailable } from '../src/serve/api-error.js';
import { hold, serve, start } from './serve-fixture.js';
import { ask, CHAT, chat, events, open, startServer, until } from './serve-harness.js';

describe('the queue', () => {
  it('runs so many, keeps so many waiting, and refuses the next at once', async () => {
    const { held, release } = hold();
    const { served } = await serve({ held }, { maxRunning: 2, maxWaiting: 2 });
    const accepted = [1, 2, 3, 4].map(() => ask(served, CHAT, { body: chat() }));
    await until(() => served.state.admission.running === 2 && served.state.admission.waiting === 2);
    // Answered while nothing else can end. Within 20 ms on idle cores: `npm run soak`.
    const refused = await ask(served, CHAT, { body: chat({ user: 'x'.repeat(1_000_000) }) });
    expect(refused.status).toBe(429);
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0);
    expect(refused.json().error).toMatchObject({ type: 'rate_limit_error', code: 'queue_full' });
    release();
    expect((await Promise.all(accepted)).map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    expect(served.state.admission).toMatchObject({ running: 0, waiting: 0 });
  });

  it('refuses who waited too long', async () => {
    const { held, release } = hold();
    const { served } = await serve({ held }, { maxRunning: 1, waitMs: 100 });
    const first = ask(served, CHAT, { body: chat() });
    await until(() => served.state.admission.running === 1);
    const second = await ask(served, CHAT, { body: chat() });
    expect(second.status).toBe(503);
    expect(second.json().error.code).toBe('queue_timeout');
    expect(second.headers['retry-after']).toBe('5');
    release();
    expect((await first).status).toBe(200);
  });

  it('counts every choice, and lets one request have all there is', async () => {
    const { served, engine } = await serve({ tokenMs: 5 }, { maxRunning: 3 });
    const [wide, other] = await Promise.all([
      ask(served, CHAT, { body: chat({ n: 8 }) }),
      ask(served, CHAT, { body: chat({ n: 2 }) }),
    ]);
    expect(wide.json().choices).toHaveLength(8);
    expect(other.json().choices).toHaveLength(2);
    expect(engine.held().sequences).toBe(0);
  });

  it('answers nothing but /health while the model loads', async () => {
    const served = await startServer();
    const health = await ask(served, '/health');
    expect([health.status, health.json()]).toEqual([503, { status: 'loading' }]);
    for (const [path, body] of [
      [CHAT, chat()],
      ['/v1/models', undefined],
      ['/api/status', undefined],
    ] as const) {
      const reply = await ask(served, path, { body });
      expect([reply.status, reply.json().error.code, reply.headers['retry-after']]).toEqual([503, 'loading', '2']);
    }
    await served.close();
  });
});

describe('a client that hangs up', () => {
  it.each([
    ['running, streamed', { stream: true }, 0],
    ['running, whole', {}, 0],
    ['waiting', { stream: true }, 1],
  ])('is worked for no longer: %s', async (_, body, running) => {
    const { held, release } = hold();
    const { served, engine } = await serve({ tokenMs: 5, ...(running ? { held } : {}) }, { maxRunning: 1 });
    const other = running ? ask(served, CHAT, { body: chat() }) : undefined;
    if (other) await until(() => engine.held().sequences === 1);
    const { outgoing } = start(served, chat({ max_tokens: 1000, ...body }));
    await until(() => (running ? served.state.admission.waiting === 1 : engine.drawn > 3));
    outgoing.destroy();
    await until(() => served.state.admission.waiting === 0 && engine.held().sequences === running);
    expect(engine.drawn).toBeLessThan(1000);
    release();
    if (other) expect((await other).status).toBe(200);
    await until(() => served.state.requestsUnderWay === 0);
  });

  it('leaves nothing behind, 60 times at random moments', async () => {
    const { served, engine } = await serve({ tokenMs: 1 }, { maxRunning: 8, maxWaiting: 64 });
    const first = start(served, chat({ max_tokens: 900 }));
    await until(() => engine.drawn > 0);
    first.outgoing.destroy();
    await Promise.all(
      Array.from({ length: 60 }, async (_, i) => {
        const { outgoing } = start(served, chat({ max_tokens: 900, stream: i % 2 === 0, n: 1 + (i % 3) }));
        await new Promise((resolve) => setTimeout(resolve, (i * 37) % 200));
        outgoing.destroy();
      }),
    );
    await until(() => served.state.requestsUnderWay === 0);
    expect(engine.held()).toEqual({ sequences: 0, kvCacheBytes: 0 });
    expect(served.state.admission).toMatchObject({ running: 0, waiting: 0 });
    expect((await ask(served, CHAT, { body: chat() })).status).toBe(200);
    const counted = (await ask(served, '/metrics')).text;
    expect(counted).toMatch(/outcome="aborted"\} [1-9]/);
    const outcomes = [...counted.matchAll(/^int_flash_requests_total\{route="\/v1\/chat.*\} (\d+)$/gm)];
    expect(outcomes.reduce((sum, [, count]) => sum + Number(count), 0)).toBeLessThanOrEqual(62); // none twice; some never arrived
  });
});

describe('the end', () => {
  it('finishes what is under way and refuses the rest', async () => {
    const { held, release } = hold();
    const { served, engine } = await serve({ held }, { maxRunning: 1 });
    const running = ask(served, CHAT, { body: chat({ stream: true }) });
    await until(() => engine.drawn > 0);
    const waiting = ask(served, CHAT, { body: chat() });
    await until(() => served.state.admission.waiting === 1);
    const closed = served.close(60_000);
    expect((await waiting).status).toBe(503);
    release();
    expect((await running).text).toContain('[DONE]');
    await closed;
    await expect(ask(served, '/health')).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  it('waits for who still reads a whole answer, until time is up', async () => {
    const long = { text: () => 'x'.repeat(4000), contextLength: 100_000 };
    const { served } = await serve(long);
    const { response } = start(served, chat({ max_tokens: 2000, n: 4 }));
    await until(() => response() !== undefined);
    const closed = served.close(60_000);
    await new Promise((resolve) => setTimeout(resolve, 1200)); // longer than who is given up at once would get
    let length = 0;
    for await (const chunk of response()!) length += chunk.length;
    expect(length).toBeGreaterThan(32e6);
    await closed;

    const again = await serve(long);
    const { response: unread } = start(again.served, chat({ max_tokens: 2000, n: 4 }));
    await until(() => unread() !== undefined);
    unread()!.on('error', () => {});
    await again.served.close(300);
    expect(again.served.state.requestsUnderWay).toBe(0);
  });

  it('does not wait for who stopped reading a stream when time is up', async () => {
    const { served, engine } = await serve({ text: () => 'x'.repeat(4000), contextLength: 100_000 });
    const { response } = start(served, chat({ max_tokens: 50_000, stream: true })); // never read
    await until(() => response() !== undefined);
    response()!.on('error', () => {});
    let before = -1;
    await until(() => {
      const still = engine.drawn === before;
      before = engine.drawn;
      return still && before > 0;
    });
    const asked = performance.now();
    await served.close(0);
    expect(performance.now() - asked).toBeLessThan(15_000); // less than readers get that are waited for
    expect(engine.held().sequences).toBe(0);
  });

  it('cuts streams off when time is up, with an error as their last event', async () => {
    const { served, engine } = await serve({ held: new Promise(() => {}) }); // nothing ends by itself
    const stream = ask(served, CHAT, { body: chat({ stream: true }) });
    const whole = ask(served, CHAT, { body: chat() });
    await until(() => engine.drawn === 2);
    await served.close(200);
    expect(events((await stream).text).at(-1).error).toMatchObject({
      type: 'service_unavailable',
      code: 'shutting_down',
    });
    expect((await whole).status).toBe(503);
    expect(engine.held().sequences).toBe(0);
  });
});

describe('the end of a run of the attention lab', () => {
  const LAB = '/api/attention-lab';

  it('comes before the server’s', async () => {
    const { served } = await serve({});
    const run = ask(served, LAB, { body: { family: 'normal', tokens: 256, heads: 2, headDim: 64 } });
    await until(() => served.state.requestsUnderWay === 1);
    await served.close(60_000);
    expect(events((await run).text).at(-1)).toEqual({ type: 'end' });
  });

  it('is an error when time is up', async () => {
    const { served } = await serve({});
    const run = ask(served, LAB, { body: { family: 'normal', tokens: 2048, heads: 8, headDim: 64 } });
    await until(() => served.state.requestsUnderWay === 1);
    await served.close(0);
    expect(events((await run).text).at(-1).error).toMatchObject({ code: 'shutting_down' });
  });
});

describe('an engine that fails', () => {
  const secret = 'canary-/home/me/model.bin-0x7f0000000000';

  it('is a 500 that tells nothing, or the last event of a stream', async () => {
    const { served } = await serve({ failAt: { token: 2, error: new Error(secret) } });
    const whole = await ask(served, CHAT, { body: chat() });
    expect([whole.status, whole.json().error.type]).toEqual([500, 'server_error']);
    const stream = await ask(served, CHAT, { body: chat({ stream: true }) });
    expect(events(stream.text).at(-1).error.type).toBe('server_error');
    expect(whole.text + stream.text).not.toContain('canary');
    expect(served.reports).toHaveLength(2);
    expect((await ask(served, '/metrics')).text).toContain('route="/v1/chat/completions",outcome="500"} 2');
  });

  it('for good makes the server say so', async () => {
    const { served } = await serve({ failAt: { token: 0, error: new IntFlashError('ERR_DEVICE_LOST', secret) } });
    const fatal = new Promise((resolve) => {
      served.state.onFatal = resolve;
    });
    expect((await ask(served, CHAT, { body: chat() })).status).toBe(503);
    expect(await fatal).toMatchObject({ code: 'ERR_DEVICE_LOST' });
    expect((await ask(served, '/health')).json()).toEqual({ status: 'failed' });
  });

  it('for a moment is a 503', async () => {
    const { served } = await serve({ failAt: { token: 0, error: unavailable('Later.', 'later') } });
    expect((await ask(served, CHAT, { body: chat() })).status).toBe(503);
  });
});

it('serves 100 streams at once, losing nothing', { timeout: 60_000 }, async () => {
  const { served } = await serve({ tokenMs: 20 }, { maxRunning: 100 });
  const replies = await Promise.all(
    Array.from({ length: 100 }, () => ask(served, CHAT, { body: chat({ max_tokens: 20, stream: true }) })),
  );
  for (const { text } of replies) expect(events(text)).toHaveLength(20 + 3);
});

it('takes so many connections, and another one when one of them ends', async () => {
  const { served } = await serve({}, { maxConnections: 2 });
  const [first, second] = [connect(served.port, '127.0.0.1'), connect(served.port, '127.0.0.1')];
  await Promise.all([once(first, 'connect'), once(second, 'connect')]);
  await expect(ask(served, '/health')).rejects.toMatchObject({ code: 'ECONNRESET' });
  first.destroy();
  await expect
    .poll(() =>
      ask(served, '/health').then(
        ({ status }) => status,
        () => 0,
      ),
    )
    .toBe(200);
  second.destroy();
});

it('keeps connections open between requests', async () => {
  const { Agent } = await import('node:http');
  const { served } = await serve({});
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  let sockets = 0;
  agent.on('free', () => {});
  for (let i = 0; i < 5; i++) {
    const outgoing = open(served, CHAT, { body: chat({ stream: i % 2 === 0 }), agent }, (response) =>
      response.resume(),
    );
    outgoing.once('socket', (socket) => {
      if (socket.connecting) sockets++;
    });
    await once(outgoing, 'close');
  }
  agent.destroy();
  expect(sockets).toBe(1);
});
