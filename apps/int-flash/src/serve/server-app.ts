import { selectBackend } from '@int-flash/attention';
import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { VERSION } from '../version.js';
import { type ApiError, asApiError, invalid, tooLarge } from './api-error.js';
import { mountAttentionLab } from './attention-lab.js';
import { mountCompletions, type ServeEnv } from './completion-routes.js';
import { expectModel } from './completion-run.js';
import { expectSameOrigin, hostGuard, keyGuard } from './guards.js';
import type { ServeState } from './serve-state.js';
import { mountWebPage, type WebPage } from './web-page.js';

/** Requests of other paths are counted together: labels must not grow with what clients make up. */
const ROUTES: Readonly<Record<string, readonly string[]>> = {
  '/health': ['GET'],
  '/metrics': ['GET'],
  '/v1/models': ['GET'],
  '/v1/models/:id': ['GET'],
  '/v1/chat/completions': ['POST'],
  '/v1/completions': ['POST'],
  '/api/status': ['GET'],
  '/api/attention-lab': ['POST'],
};

/** A lab run is asked for in a few numbers. */
const MAX_LAB_BYTES = 16 * 1024;

/**
 * All routes. Every one but `/health` needs the key if there is one, and every request must be addressed to this server by a
 * name it knows; these checks come first, so a route added later has them too.
 */
export function createServerApp(state: ServeState, page: WebPage): Hono<ServeEnv> {
  const app = new Hono<ServeEnv>();
  const isOurs = hostGuard(state.settings);
  const expectKey = keyGuard(state.settings.apiKey);
  const routeOf = (path: string) => {
    if (/^\/v1\/models\/[^/]+$/.test(path)) return '/v1/models/:id';
    return Object.hasOwn(ROUTES, path) || page.files.has(path) ? path : undefined;
  };

  app.use(async (c, next) => {
    await next();
    const outcome = c.get('outcome') ?? c.res.status;
    state.metrics.requests.inc({ route: routeOf(c.req.path) ?? 'other', outcome });
  });
  app.use(async (c, next) => {
    const { headers } = c.env.incoming;
    if (!isOurs(headers.host)) {
      throw invalid('This server is not known by the name in the Host header.', undefined, 'host_not_allowed', 403);
    }
    if (c.req.path !== '/health') {
      expectSameOrigin(headers);
      expectKey(headers.authorization, page.files.has(c.req.path));
    }
    await next();
  });

  app.get('/health', (c) => {
    const { phase } = state;
    return c.json({ status: phase === 'ready' ? 'ok' : phase }, phase === 'ready' ? 200 : 503);
  });
  app.get('/metrics', async (c) =>
    c.body(await state.metrics.registry.metrics(), 200, { 'content-type': state.metrics.registry.contentType }),
  );
  const created = Math.floor(Date.now() / 1000);
  const model = () => ({ id: state.engine.name, object: 'model', created, owned_by: 'int-flash' });
  app.get('/v1/models', (c) => c.json({ object: 'list', data: [model()] }));
  app.get('/v1/models/:id', (c) => {
    expectModel(state.engine, c.req.param('id'));
    return c.json(model());
  });
  app.get('/api/status', (c) => c.json(statusOf(state)));
  mountCompletions(app, state);
  app.use('/api/attention-lab', bodyLimit({ maxSize: MAX_LAB_BYTES, onError: () => refuse(tooLarge(MAX_LAB_BYTES)) }));
  app.use('/api/attention-lab', async (_, next) => {
    state.expectOpen();
    await next();
  });
  mountAttentionLab(app, {
    backend: () => selectBackend('auto'),
    begin: (controller) => state.begin(controller),
    report: state.report,
  });
  mountWebPage(app, page);

  app.notFound((c) => {
    const route = routeOf(c.req.path);
    const allowed = route === undefined ? undefined : (ROUTES[route] ?? ['GET']);
    const error = allowed
      ? invalid('This route does not take this method.', undefined, 'method_not_allowed', 405)
      : invalid('There is no such route.', undefined, 'not_found', 404);
    return c.json(error.body, error.status as ContentfulStatusCode, allowed ? { allow: allowed.join(', ') } : {});
  });
  app.onError((error, c) => {
    const refusal = asApiError(error);
    if (refusal.status === 500) state.report(error);
    return c.json(refusal.body, refusal.status as ContentfulStatusCode, refusal.headers);
  });
  return app;
}

function refuse(error: ApiError): never {
  throw error;
}

function statusOf({ engine }: ServeState) {
  const { backend, attention, kvCacheDtype, kvKeyScales, eosToken, sampling } = engine.facts;
  const { name, isa, threads, detail } = backend;
  return {
    model: engine.name,
    backend: { name, isa, threads, detail },
    precision: attention,
    kvCacheDtype,
    kvKeyScales,
    contextLength: engine.contextLength,
    version: VERSION,
    eosToken,
    chatTemplate: engine.hasChatTemplate,
    sampling,
  };
}
