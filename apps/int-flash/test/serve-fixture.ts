import type { IncomingMessage } from 'node:http';
import { afterEach } from 'vitest';
import type { ServeSettings } from '../src/serve/serve-settings.js';
import { type MockOptions, mockEngine } from './mock-engine.js';
import { CHAT, open, type Served, startServer } from './serve-harness.js';

let served: Served | undefined;

afterEach(async () => {
  await served?.close();
  served = undefined;
});

/** A server that is closed when the test is over. */
export async function serve(mock: MockOptions, settings: Partial<ServeSettings> = {}) {
  const engine = mockEngine(mock);
  served = await startServer(engine, settings);
  return { engine, served };
}

/** For {@link MockOptions.held}. */
export function hold() {
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  return { held, release };
}

/** A request whose connection the test holds. */
export function start(server: Served, body: Record<string, unknown>) {
  let response: IncomingMessage | undefined;
  const outgoing = open(server, CHAT, { body }, (arrived) => {
    response = arrived;
  });
  outgoing.on('error', () => {}); // destroyed by the test
  return { outgoing, response: () => response };
}
