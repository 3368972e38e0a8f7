import { type IncomingHttpHeaders, type IncomingMessage, type RequestOptions, request } from 'node:http';
import type { Engine } from '../src/serve/engine.js';
import { type HttpServer, startHttpServer } from '../src/serve/http-server.js';
import { SERVE_DEFAULTS, type ServeSettings } from '../src/serve/serve-settings.js';
import { ServeState } from '../src/serve/serve-state.js';
import { loadWebPage } from '../src/serve/web-page.js';

export interface Served {
  readonly url: string;
  readonly port: number;
  readonly state: ServeState;
  /** What the server would have told its operator. */
  readonly reports: unknown[];
  close(ms?: number): Promise<void>;
}

export const CHAT = '/v1/chat/completions';

/** What a server with a key answers to nobody without it, besides the page's files. */
export const GUARDED_ROUTES = [
  '/v1/models',
  '/v1/models/mock',
  CHAT,
  '/v1/completions',
  '/api/status',
  '/api/attention-lab',
  '/metrics',
];

/** A server in this process, on a port of its own; without an engine it goes on loading. */
export async function startServer(engine?: Engine, settings: Partial<ServeSettings> = {}): Promise<Served> {
  const reports: unknown[] = [];
  const state = new ServeState({ ...SERVE_DEFAULTS, port: 0, ...settings }, (error) => reports.push(error));
  const server: HttpServer = await startHttpServer(state, loadWebPage('/nowhere'));
  if (engine) state.start(engine);
  const port = Number(new URL(server.url).port);
  return { url: server.url, port, state, reports, close: (ms = 0) => server.close(ms) };
}

export interface Reply {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** The body as JSON; throws if it is not. */
  // biome-ignore lint/suspicious/noExplicitAny: answers of many shapes, judged by the tests
  json(): any;
}

/** One request with everything under the test's control. A body of text or bytes is sent as it is. */
export function ask(served: { readonly port: number }, path: string, options: AskOptions = {}): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const outgoing = open(served, path, options, async (response) => {
      try {
        let text = '';
        response.setEncoding('utf8');
        for await (const chunk of response) text += chunk;
        resolve({ status: response.statusCode!, headers: response.headers, text, json: () => JSON.parse(text) });
      } catch (error) {
        reject(error);
      }
    });
    outgoing.on('error', reject);
  });
}

export interface AskOptions {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly agent?: RequestOptions['agent'];
}

/** The same, when the test wants the connection itself. */
export function open(
  { port }: { readonly port: number },
  path: string,
  { method, headers = {}, body, agent = false }: AskOptions,
  onResponse: (response: IncomingMessage) => void,
) {
  const isWhole = body === undefined || typeof body === 'string' || Buffer.isBuffer(body);
  const text = isWhole ? body : JSON.stringify(body);
  const json =
    text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
  const outgoing = request(
    {
      host: '127.0.0.1',
      port,
      path,
      method: method ?? (text === undefined ? 'GET' : 'POST'),
      headers: { ...json, ...headers },
      agent,
    },
    onResponse,
  );
  outgoing.end(text);
  return outgoing;
}

export function chat(more: Record<string, unknown> = {}): Record<string, unknown> {
  return { messages: [{ role: 'user', content: 'hello' }], max_tokens: 4, ...more };
}

/** The `data:` lines of a stream; JSON but for the closing one. */
// biome-ignore lint/suspicious/noExplicitAny: as above
export function events(text: string): any[] {
  return text
    .split('\n\n')
    .filter((event) => event !== '')
    .map((event) => event.replace(/^data: /, ''))
    .map((data) => (data === '[DONE]' ? data : JSON.parse(data)));
}

/** Waits for something that is to become true: soon, but on a machine that is slow and busy. */
export async function until(isTrue: () => boolean, ms = 20_000): Promise<void> {
  const end = performance.now() + ms;
  while (!isTrue()) {
    if (performance.now() > end) throw new Error(`not true within ${ms} ms: ${isTrue}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
