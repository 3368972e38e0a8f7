import type { Backend } from '@int-flash/ops';
import type { Env, Hono } from 'hono';
import { streamSSE } from 'hono/streaming';
import { ApiError, asApiError, invalid } from './api-error.js';
import { LabRequest } from './lab-request.js';
import { type LabEvent, runLab } from './lab-run.js';
import { expectJsonType, parseJsonBody } from './request-body.js';
import { complaintOf } from './request-complaint.js';

/** Longer than any allowed shape takes on the native backend; on the portable one it ends the largest. */
const MAX_RUN_MS = 60_000;

export interface AttentionLabSettings {
  /** Asked for when a run begins, so that a server that never runs one starts no backend for it. */
  readonly backend: () => Backend;
  /** Told of a run's beginning; what it returns, of its end. Aborting the controller ends the run with the reason as its last event. */
  readonly begin?: (controller: AbortController) => () => void;
  /** Told of failures that are the server's own. */
  readonly report?: (error: unknown) => void;
}

/**
 * Adds POST /api/attention-lab: runs attention in several kinds of arithmetic and streams what each costs and loses, as server-sent
 * events (`LabEvent`). One run at a time; a client that goes away ends its run.
 */
export function mountAttentionLab<E extends Env>(
  app: Hono<E>,
  { backend, begin = () => () => {}, report = () => {} }: AttentionLabSettings,
): void {
  let running = false;

  app.post('/api/attention-lab', async (c) => {
    expectJsonType(c.req.header('content-type'), c.req.header('content-encoding'));
    const request = judge(parseJsonBody(new Uint8Array(await c.req.arrayBuffer().catch(() => new ArrayBuffer()))));
    if (running) throw busy();
    running = true;
    const gone = new AbortController();
    const cut = new AbortController();
    const done = begin(cut);
    const tooLong = AbortSignal.timeout(MAX_RUN_MS);
    const signal = AbortSignal.any([gone.signal, c.req.raw.signal, cut.signal, tooLong]);
    return streamSSE(c, async (stream) => {
      stream.onAbort(() => gone.abort());
      const send = (data: LabEvent | ApiError['body']) => stream.writeSSE({ data: JSON.stringify(data) });
      try {
        for await (const event of runLab(request, backend(), signal)) await send(event);
      } catch (error) {
        if (!gone.signal.aborted && !c.req.raw.signal.aborted) {
          const refusal = tooLong.aborted ? tookTooLong() : asApiError(error);
          if (refusal.status === 500) report(error);
          await send(refusal.body);
        }
      } finally {
        running = false;
        done();
      }
    });
  });
}

/** @throws {ApiError} 400, naming the field that is wrong. */
function judge(body: unknown): LabRequest {
  const { data, error } = LabRequest.safeParse(body);
  if (data) return data;
  const { message, param } = complaintOf(error);
  throw invalid(message, param, 'invalid_lab_request');
}

function busy(): ApiError {
  return new ApiError(429, 'rate_limit_error', 'The lab is busy: it does one run at a time.', {
    code: 'lab_busy',
    headers: { 'retry-after': '5' },
  });
}

function tookTooLong(): ApiError {
  const seconds = MAX_RUN_MS / 1000;
  return invalid(`A run ends after ${seconds} s: ask for fewer tokens, heads or variants.`, 'tokens', 'lab_timeout');
}
