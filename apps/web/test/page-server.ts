import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const PAGE = fileURLToPath(new URL('../dist/', import.meta.url));
/** What `int-flash serve` sends (S11), and Trusted Types besides: any string that reaches an HTML parser throws. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

const LAB_RUN = [
  { type: 'begin', backend: { name: 'portable' }, checkedRows: 256 },
  { type: 'progress', share: 0, doing: 'drawing inputs' },
  { type: 'result', variant: 'full-int8', ms: 12.3, repeats: 9, relativeL2: 0.0153, cosine: 0.9999, worst: 0.01 },
  { type: 'unavailable', variant: 'int4-qk', why: 'Expected no INT4 here' },
  { type: 'result', variant: 'fp32', ms: 31.5, repeats: 9, relativeL2: 2e-7, cosine: 1, worst: 1e-6 },
  { type: 'end' },
];

export interface PageServerSettings {
  /** What the model says next, event by event. */
  answer: readonly string[];
  /** Between events; the answer waits for `release` when it is undefined. */
  pauseMs: number;
  /** Refuse requests without this key. */
  key?: string | undefined;
  /** Sent instead of an answer. */
  refusal?: { status: number; error: object; headers?: Record<string, string> } | undefined;
  /** Ends the stream with this error event. */
  breakWith?: string | undefined;
  /** Refuse conversations with more messages than this, as too long. */
  maxMessages: number;
  chatTemplate: boolean;
  /** Events of a run in the attention lab. */
  lab: readonly object[];
}

/** The built page behind the endpoints it needs, with answers that a test decides: what no real model can be made to say. */
export class PageServer {
  readonly settings: PageServerSettings = {
    answer: ['Hello', ' there.'],
    pauseMs: 5,
    maxMessages: 100,
    chatTemplate: true,
    lab: LAB_RUN,
  };
  /** Bodies of requests for answers. */
  readonly asked: Record<string, unknown>[] = [];
  /** Answers that the page hung up on. */
  hungUp = 0;
  #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(): Promise<PageServer> {
    const files = JSON.parse(readFileSync(`${PAGE}files.json`, 'utf8')) as {
      path: string;
      type: string;
      file: string;
    }[];
    const server = createServer();
    const page = new PageServer(server);
    server.on('request', (request: IncomingMessage, response: ServerResponse) => {
      const file = files.find(({ path }) => path === request.url);
      response.setHeader('content-security-policy', POLICY).setHeader('x-content-type-options', 'nosniff');
      if (file) response.setHeader('content-type', file.type).end(readFileSync(`${PAGE}${file.file}`));
      else void page.#answer(request, response);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return page;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, 'close');
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { key, refusal, maxMessages, chatTemplate } = this.settings;
    if (key !== undefined && request.headers.authorization !== `Bearer ${key}`) {
      return refuse(response, 401, { message: 'Expected an API key', code: 'invalid_api_key' });
    }
    if (request.url === '/api/status') {
      return sendJson(response, 200, {
        model: 'test-model',
        backend: { name: 'portable', threads: 1 },
        precision: 'int8',
        kvCacheDtype: 'int8',
        contextLength: 512,
        version: '0.0.0',
        chatTemplate,
        sampling: { temperature: 0.9, topP: 0.92 },
      });
    }
    if (request.url === '/api/attention-lab') return this.#streamLab(response);
    if (request.method !== 'POST' || !/^\/v1\/(chat\/)?completions$/.test(request.url ?? '')) {
      return refuse(response, 404, { message: 'There is nothing here', code: 'not_found' });
    }
    const body = JSON.parse(Buffer.concat(await request.toArray()).toString()) as Record<string, unknown>;
    this.asked.push(body);
    if (refusal) return refuse(response, refusal.status, refusal.error, refusal.headers);
    if (Array.isArray(body.messages) && body.messages.length > maxMessages) {
      return refuse(response, 400, { message: 'Too long', code: 'context_length_exceeded' });
    }
    await this.#stream(response);
  }

  async #streamLab(response: ServerResponse): Promise<void> {
    response.setHeader('content-type', 'text/event-stream');
    for (const event of this.settings.lab) {
      response.write(`data: ${JSON.stringify(event)}\n\n`);
      await pause(response, this.settings.pauseMs);
      if (response.destroyed) {
        this.hungUp++;
        return;
      }
    }
    response.end();
  }

  async #stream(response: ServerResponse): Promise<void> {
    const { answer, pauseMs, breakWith, chatTemplate } = this.settings;
    const send = (event: unknown) =>
      response.write(`data: ${typeof event === 'string' ? event : JSON.stringify(event)}\n\n`);
    response.setHeader('content-type', 'text/event-stream');
    for (const text of answer) {
      send({ choices: [chatTemplate ? { delta: { content: text } } : { text }] });
      await pause(response, pauseMs);
      if (response.destroyed) {
        this.hungUp++;
        return;
      }
    }
    if (breakWith) send({ error: { message: breakWith } });
    else {
      send({ choices: [{ delta: {}, finish_reason: 'stop' }] });
      send({ choices: [], usage: { prompt_tokens: 20, completion_tokens: answer.length } });
      send('[DONE]');
    }
    response.end();
  }
}

/** Ends early when the page hangs up. */
async function pause(response: ServerResponse, ms: number): Promise<void> {
  const end = new AbortController();
  const { signal } = end;
  await Promise.race([sleep(ms, undefined, { signal }), once(response, 'close', { signal })]).catch(() => {});
  end.abort();
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.statusCode = status;
  response.setHeader('content-type', 'application/json').end(JSON.stringify(body));
}

function refuse(response: ServerResponse, status: number, error: object, headers: Record<string, string> = {}): void {
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  sendJson(response, status, { error: { type: 'invalid_request_error', param: null, ...error } });
}
