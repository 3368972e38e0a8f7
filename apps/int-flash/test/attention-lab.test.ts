import { cpuStatus, createCpuBackend, createPortableBackend } from '@int-flash/kernels-cpu';
import type { Backend } from '@int-flash/ops';
import { Hono } from 'hono';
import { describe, expect, it } from 'vitest';
import { asApiError } from '../src/serve/api-error.js';
import { mountAttentionLab } from '../src/serve/attention-lab.js';
import type { LabEvent, LabResult } from '../src/serve/lab-run.js';

const backend = cpuStatus().available ? createCpuBackend() : createPortableBackend();
const ASKED = { family: 'normal', tokens: 96, heads: 2, headDim: 32 };

function lab(of: Backend = backend) {
  const app = new Hono();
  app.onError((error, c) => {
    const { status, body, headers } = asApiError(error);
    return c.json(body, status as 400, headers);
  });
  mountAttentionLab(app, { backend: () => of });
  return (body: unknown, { headers, signal }: Pick<RequestInit, 'headers' | 'signal'> = {}) =>
    app.request('/api/attention-lab', {
      method: 'POST',
      headers: headers ?? { 'content-type': 'application/json' },
      body: typeof body === 'string' ? body : JSON.stringify(body),
      ...(signal && { signal }),
    });
}

async function eventsOf(response: Response): Promise<LabEvent[]> {
  const text = await response.text();
  return [...text.matchAll(/^data: (.*)$/gm)].map(([, data]) => JSON.parse(data!) as LabEvent);
}

async function resultsOf(body: unknown): Promise<Record<string, LabResult>> {
  const events = await eventsOf(await lab()(body));
  expect(events.at(-1)).toEqual({ type: 'end' });
  return Object.fromEntries(events.flatMap((event) => (event.type === 'result' ? [[event.variant, event]] : [])));
}

describe('POST /api/attention-lab', () => {
  it('runs all five kinds of arithmetic, each as far from float64 as it should be', async () => {
    const results = await resultsOf(ASKED);
    expect(Object.keys(results)).toEqual(['full-int8', 'half-int8', 'paper-int8', 'int4-qk', 'fp32']);
    const error = (variant: string) => results[variant]!.relativeL2;
    // The bounds of docs/arithmetic.md, and floors: a path that forgot to quantize passes any ceiling.
    expect(error('fp32')).toBeLessThan(1e-5);
    expect(error('half-int8')).toBeGreaterThan(1e-3);
    expect(error('half-int8')).toBeLessThan(error('full-int8'));
    expect(error('full-int8')).toBeLessThan(0.03);
    expect(error('int4-qk')).toBeGreaterThan(0.05);
    for (const { ms, repeats, cosine, worst } of Object.values(results)) {
      expect(ms).toBeGreaterThan(0);
      expect(repeats).toBeGreaterThanOrEqual(3);
      expect(cosine).toBeGreaterThan(0.95);
      expect(worst).toBeGreaterThan(0);
    }
  });

  it('shows that attention sinks break one scale for all of V and not one a token', async () => {
    const results = await resultsOf({ ...ASKED, family: 'sink', tokens: 512, variants: ['full-int8', 'paper-int8'] });
    expect(results['paper-int8']!.relativeL2).toBeGreaterThan(4 * results['full-int8']!.relativeL2);
  });

  // fp32 is right to 1e-6, so a wrong diagonal, a wrong row or a wrong head shows.
  it.each([
    { tokens: 96, isCausal: true },
    { tokens: 300, isCausal: true }, // more rows than are checked
    { tokens: 300, isCausal: false },
    { tokens: 1, isCausal: true },
  ])('compares the right rows, $tokens tokens, causal $isCausal', async (shape) => {
    const results = await resultsOf({ ...ASKED, ...shape, variants: ['fp32'] });
    expect(results.fp32!.relativeL2).toBeLessThan(1e-5);
  });

  it('says what ran and how many rows were compared', async () => {
    const [begin] = await eventsOf(await lab()({ ...ASKED, tokens: 300, variants: ['fp32'] }));
    expect(begin).toMatchObject({ type: 'begin', checkedRows: 256, backend: { name: backend.name } });
  });

  it.each([
    ['an array', [], null],
    ['an unknown family', { ...ASKED, family: 'cauchy' }, 'family'],
    ['no tokens', { ...ASKED, tokens: 0 }, 'tokens'],
    ['too many tokens', { ...ASKED, tokens: 4097 }, 'tokens'],
    ['half a token', { ...ASKED, tokens: 1.5 }, 'tokens'],
    ['a head dimension that is no multiple of 8', { ...ASKED, headDim: 20 }, 'headDim'],
    ['heads too large to draw', { ...ASKED, tokens: 4096, headDim: 256 }, 'tokens'],
    ['too much work', { ...ASKED, tokens: 4096, headDim: 128, heads: 16 }, 'tokens'],
    ['an unknown variant', { ...ASKED, variants: ['int2'] }, 'variants.0'],
    ['no variant', { ...ASKED, variants: [] }, 'variants'],
    ['a variant twice', { ...ASKED, variants: ['fp32', 'fp32'] }, 'variants'],
    ['an unknown field', { ...ASKED, url: 'http://example.org/' }, 'url'],
  ])('refuses %s', async (_, body, param) => {
    const response = await lab()(body);
    expect(response.status).toBe(400);
    const { error } = (await response.json()) as { error: Record<string, unknown> };
    expect(error).toMatchObject({ type: 'invalid_request_error', code: 'invalid_lab_request', param });
    expect(error.message).toBeTypeOf('string');
  });

  it.each([
    ['half a body', '{'],
    ['none', ''],
    ['a body nested without end', '['.repeat(100) + ']'.repeat(100)],
  ])('refuses what is no JSON: %s', async (_, body) => {
    const response = await lab()(body);
    expect(response.status).toBe(400);
    const { error } = (await response.json()) as { error: Record<string, unknown> };
    expect(error).toMatchObject({
      code: 'invalid_json',
      message: expect.stringMatching(/^Expected (the body to be )?JSON/),
    });
  });

  it('refuses other types of content', async () => {
    for (const headers of [{ 'content-type': 'text/plain' }, { 'content-type': 'application/jsonp' }]) {
      const response = await lab()(ASKED, { headers });
      expect(response.status).toBe(415);
      const { error } = (await response.json()) as { error: Record<string, unknown> };
      expect(error).toMatchObject({ code: 'unsupported_media_type', message: expect.stringContaining('content-type') });
    }
  });

  it.each([
    [[], 'Expected the request to be of type object.'],
    [{ ...ASKED, tokens: 0 }, 'Expected tokens to be at least 1.'],
    [{ ...ASKED, tokens: 4097 }, 'Expected tokens to be at most 4096.'],
    [{ ...ASKED, tokens: 'many' }, 'Expected tokens to be of type number.'],
    [{ ...ASKED, variants: [] }, 'Expected variants to have at least 1 elements.'],
    [{ ...ASKED, url: 'x' }, 'This server does not know the parameter url.'],
    [{ ...ASKED, headDim: 20 }, 'Expected headDim to be a multiple of 8.'],
  ])('says what it expects instead of %j', async (body, message) => {
    const response = await lab()(body);
    const { error } = (await response.json()) as { error: Record<string, unknown> };
    expect(error.message).toBe(message);
  });

  it('takes one run at a time, stops one whose client went away, and then takes the next', async () => {
    let aborted: unknown;
    const never: Backend = {
      ...createPortableBackend(),
      status: () => ({ name: 'portable', available: true, detail: 'waits' }),
      attention: (_, signal) =>
        new Promise((_, reject) =>
          signal!.addEventListener('abort', () => {
            aborted = signal!.reason;
            reject(signal!.reason);
          }),
        ),
    };
    const ask = lab(never);
    const first = await ask({ ...ASKED, variants: ['fp32'] });
    const reader = first.body!.pipeThrough(new TextDecoderStream()).getReader();
    for (let heard = ''; !heard.includes('running fp32'); ) heard += (await reader.read()).value;
    const second = await ask(ASKED);
    expect(second.status).toBe(429);
    expect(second.headers.get('retry-after')).toBe('5');
    await reader.cancel();
    await expect
      .poll(async () => {
        const next = await ask({ ...ASKED, variants: ['fp32'] });
        await next.body?.cancel();
        return next.status;
      })
      .toBe(200);
    expect(aborted).toBeInstanceOf(DOMException);
  });

  it('says so when this backend lacks a kind of arithmetic, and goes on', async () => {
    const { IntFlashError } = await import('@int-flash/ops');
    const partial: Backend = {
      ...backend,
      status: () => backend.status(),
      attention: (plan, signal) => {
        if (plan.precision === 'int4-qk') throw new IntFlashError('ERR_UNSUPPORTED', 'Expected no INT4 here');
        return backend.attention(plan, signal);
      },
    };
    const events = await eventsOf(await lab(partial)({ ...ASKED, variants: ['int4-qk', 'fp32'] }));
    expect(events).toContainEqual({ type: 'unavailable', variant: 'int4-qk', why: 'Expected no INT4 here' });
    expect(events).toContainEqual(expect.objectContaining({ type: 'result', variant: 'fp32' }));
  });
});
