// A server with a mock engine as a process of its own: what it holds is then its alone. Tells its parent the port, and what it holds
// when asked.
import { existsSync, readdirSync } from 'node:fs';
import { startHttpServer } from '../src/serve/http-server.js';
import { SERVE_DEFAULTS } from '../src/serve/serve-settings.js';
import { ServeState } from '../src/serve/serve-state.js';
import { loadWebPage } from '../src/serve/web-page.js';
import { mockEngine } from '../test/mock-engine.js';
import type { MockSettings } from './server-process.js';

const given = JSON.parse(process.argv[2] ?? '{}') as MockSettings;
const { tokenMs = 0, tokenCharacters = 0, ...settings } = given;
const DESCRIPTORS = '/proc/self/fd'; // Linux tells; elsewhere handles have to do
const longToken = 'x'.repeat(tokenCharacters);
const engine = mockEngine({ tokenMs, ...(tokenCharacters > 0 ? { text: () => longToken } : {}) });
let failures = 0;
const state = new ServeState({ ...SERVE_DEFAULTS, port: 0, ...settings }, () => {
  failures++;
});
const server = await startHttpServer(state, loadWebPage());
state.start(engine);
process.on('message', (what) => {
  if (what === 'collected stats') globalThis.gc!();
  process.send!({
    rss: process.memoryUsage.rss(),
    heapBytes: heapBytes(),
    cpuMs: cpuMs(),
    descriptors: existsSync(DESCRIPTORS) ? readdirSync(DESCRIPTORS).length : 0,
    handles: process.getActiveResourcesInfo().length,
    underWay: state.requestsUnderWay,
    running: state.admission.running,
    failures,
    begun: engine.begun,
    ...engine.held(),
  });
});

/** What JavaScript holds, with what lies outside V8's heap for it. */
function heapBytes(): number {
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

/** Processor time since the start. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

process.on('disconnect', () => process.exit());
process.send!({ port: Number(new URL(server.url).port) });
