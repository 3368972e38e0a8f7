import { once } from 'node:events';
import { createServer, type Server, type ServerResponse, STATUS_CODES } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import { type ApiErrorType, asApiError, invalid } from './api-error.js';
import { SECURITY_HEADERS } from './guards.js';
import type { ServeSettings } from './serve-settings.js';
import type { ServeState } from './serve-state.js';
import { createServerApp } from './server-app.js';
import type { WebPage } from './web-page.js';

const MAX_HEADER_BYTES = 16 * 1024;
const KEEP_ALIVE_MS = 5000;
/** Requests on one connection that have no answer yet. Clients send one after the other; who sends thousands at once has their answers kept. */
const MAX_PIPELINED = 4;

/** The listening server; the model may still be loading. */
export interface HttpServer {
  readonly url: string;
  /** Ends in order: no new requests, those under way get `ms` to finish. Resolves when every connection is closed. */
  close(ms: number): Promise<void>;
}

/** @throws the system's error when the port cannot be had. */
export async function startHttpServer(state: ServeState, page: WebPage): Promise<HttpServer> {
  const { settings } = state;
  const app = createServerApp(state, page);
  const listener = getRequestListener(app.fetch, {
    errorHandler: (error) => {
      const isRequest = (error as Error | null)?.name === 'RequestError';
      const refusal = isRequest ? invalid('Expected a valid request line and a Host header.') : asApiError(error);
      if (refusal.status === 500) state.report(error);
      return Response.json(refusal.body, { status: refusal.status });
    },
  });
  const unanswered = new WeakMap<Socket, Set<ServerResponse>>();
  const server = createServer(serverOptions(settings), (request, response) => {
    const { socket } = request;
    const open = unanswered.get(socket) ?? closedWith(socket);
    unanswered.set(socket, open);
    if (open.size >= MAX_PIPELINED) {
      socket.destroy();
      return;
    }
    open.add(response);
    response.once('close', () => open.delete(response));
    for (const [name, value] of Object.entries(SECURITY_HEADERS)) response.setHeader(name, value);
    if (state.phase === 'draining') response.setHeader('connection', 'close');
    response.once('socket', () => socket.setTimeout(0)); // its turn: what is set was for the reader of the one before
    // Said to its end, but not yet heard: from here on a reader that takes nothing for so long is cut off. Streams see to it before, too.
    response.once('prefinish', () => socket.setTimeout(settings.slowReaderMs));
    void listener(request, response);
  });
  server.maxConnections = settings.maxConnections;
  server.on('clientError', refuseBadRequest);
  server.on('checkExpectation', (_, response) => {
    const { body } = invalid('Expected no other expectation than 100-continue.', undefined, undefined, 417);
    response
      .writeHead(417, { ...SECURITY_HEADERS, 'content-type': 'application/json', connection: 'close' })
      .end(JSON.stringify(body));
  });
  server.on('connect', (_, socket: Socket) =>
    refuse(socket, 405, 'Expected another method than CONNECT.', 'method_not_allowed'),
  );
  server.listen({ host: settings.host, port: settings.port });
  await once(server, 'listening');
  return { url: urlOf(server, settings.host), close: (ms) => close(server, state, ms) };
}

function serverOptions({ headersTimeoutMs, bodyTimeoutMs }: ServeSettings) {
  return {
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: headersTimeoutMs,
    requestTimeout: Math.max(bodyTimeoutMs, headersTimeoutMs),
    connectionsCheckingInterval: Math.min(1000, headersTimeoutMs),
    keepAliveTimeout: KEEP_ALIVE_MS,
    requireHostHeader: false, // Node's own refusal has no body; the listener's has
  };
}

/** Responses that are told when their connection closes: Node tells only the one whose turn it is to be sent, not those behind it. */
function closedWith(socket: Socket): Set<ServerResponse> {
  const responses = new Set<ServerResponse>();
  socket.once('close', () => {
    for (const response of responses) if (!response.socket) response.destroy().emit('close');
  });
  return responses;
}

async function close(server: Server, state: ServeState, ms: number): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeIdleConnections();
  await state.drain(ms);
  // Answers are written; who has not read theirs to the end by then is waited for no longer.
  const timer = setTimeout(() => server.closeAllConnections(), 500);
  const idle = setInterval(() => server.closeIdleConnections(), 20);
  await closed;
  clearTimeout(timer);
  clearInterval(idle);
}

/** What Node refuses before there is a request still gets a body in the API's form. */
function refuseBadRequest(error: NodeJS.ErrnoException, socket: Socket): void {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  const [status, message] = BAD_REQUESTS[error.code ?? ''] ?? [400, 'Expected a valid HTTP request.'];
  refuse(socket, status, message, null);
}

/** Answers without a response of Node's, in the form of all others. */
function refuse(socket: Socket, status: number, message: string, code: string | null): void {
  const type: ApiErrorType = 'invalid_request_error';
  const body = JSON.stringify({ error: { message, type, param: null, code } });
  const headers = {
    ...SECURITY_HEADERS,
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
    connection: 'close',
    ...(status === 405 && { allow: 'GET, POST' }),
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.on('error', () => {}); // who asked may have gone
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n${body}`, () => socket.destroy());
}

const BAD_REQUESTS: Readonly<Record<string, [status: number, message: string]>> = {
  HPE_HEADER_OVERFLOW: [431, `Expected headers of at most ${MAX_HEADER_BYTES} bytes.`],
  HPE_CHUNK_EXTENSIONS_OVERFLOW: [413, 'Expected fewer chunk extensions.'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'Expected the whole request in time.'],
};

function urlOf(server: Server, host: string): string {
  const { port } = server.address() as AddressInfo;
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
