import type { HttpBindings } from '@hono/node-server';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { IntFlashError } from '@int-flash/ops';
import type { Context, Hono } from 'hono';
import { type AnswerFormat, chatFormat, type DrawnChoice, textFormat } from './answer-format.js';
import { asApiError, invalid } from './api-error.js';
import { type CompletionRequest, judgeChatRequest, judgeTextRequest } from './completion-request.js';
import { type Choice, expectEncodable, expectModel, planRun, usageOf } from './completion-run.js';
import type { Engine } from './engine.js';
import { EventStream } from './event-stream.js';
import { readJsonBody } from './request-body.js';
import type { ServeState } from './serve-state.js';
import { type ToldToken, ToldTokens } from './told-tokens.js';
import { KeptAnswer, sendWhole, wholeJson } from './whole-answer.js';

export type ServeEnv = {
  Bindings: HttpBindings;
  Variables: {
    /** What became of a request where its status does not tell: it was sent before. */
    outcome?: string;
  };
};

/** The client hung up; there is nobody to tell anything. */
class ClientGone extends Error {}

interface Ask {
  readonly request: CompletionRequest;
  readonly prompts: readonly (readonly number[])[];
  readonly format: AnswerFormat;
}

export function mountCompletions(app: Hono<ServeEnv>, state: ServeState): void {
  app.post('/v1/chat/completions', (c) => complete(c, state, askChat));
  app.post('/v1/completions', (c) => complete(c, state, askText));
}

function askChat(engine: Engine, body: unknown): Ask {
  const request = judgeChatRequest(body);
  expectModel(engine, request.model);
  if (!engine.hasChatTemplate) {
    throw invalid('This model has no chat format; use plain completions.', 'messages', 'no_chat_template');
  }
  const characters = request.turns.reduce((sum, { content }) => sum + content.length, 0);
  expectEncodable(engine, characters, 'messages');
  const logprobs = request.settings.logprobs !== undefined;
  return {
    request,
    prompts: [engine.encodeChat(request.turns)],
    format: chatFormat(engine, { logprobs, includeUsage: request.includeUsage }),
  };
}

function askText(engine: Engine, body: unknown): Ask {
  const request = judgeTextRequest(body);
  expectModel(engine, request.model);
  const logprobs = request.settings.logprobs !== undefined;
  return {
    request,
    prompts: request.prompts.map((prompt) => promptIds(engine, prompt)),
    format: textFormat(engine, { logprobs, includeUsage: request.includeUsage }),
  };
}

function promptIds(engine: Engine, prompt: string | readonly number[]): readonly number[] {
  if (typeof prompt === 'string') {
    expectEncodable(engine, prompt.length, 'prompt');
    return engine.encodeText(prompt);
  }
  const unknown = prompt.find((id) => id >= engine.vocabSize);
  if (unknown !== undefined) throw invalid(`Expected token ids below ${engine.vocabSize}, got ${unknown}.`, 'prompt');
  return prompt;
}

async function complete(
  c: Context<ServeEnv>,
  state: ServeState,
  ask: (engine: Engine, body: unknown) => Ask,
): Promise<Response> {
  const { incoming, outgoing } = c.env;
  const arrived = performance.now();
  const controller = new AbortController();
  const done = state.begin(controller);
  const onClose = () => controller.abort(new ClientGone('the client hung up'));
  outgoing.once('close', onClose);
  const stream = new EventStream(outgoing, state.settings.slowReaderMs, controller.signal);
  try {
    const { engine } = state;
    state.admission.expectRoom();
    const body = await readJsonBody(incoming, state.bodies);
    await state.turns.enter();
    controller.signal.throwIfAborted();
    const { request, prompts, format } = ask(engine, body);
    const run = planRun(engine, request, prompts, controller.signal);
    const leave = await state.admission.enter(run.choices.length, controller.signal);
    try {
      state.metrics.promptTokens.inc(run.promptTokens);
      const canBeCut = request.settings.stop !== undefined;
      const drawing = run.choices.map((choice) =>
        draw(state, choice, arrived, request.stream ? format : undefined, stream, canBeCut),
      );
      const choices = await allOrAbort(drawing, controller);
      const usage = usageOf(
        run.promptTokens,
        choices.reduce((sum, { tokens }) => sum + tokens, 0),
      );
      if (!request.stream) {
        const json = wholeJson(
          format.whole(
            choices.map(({ drawn }) => drawn),
            usage,
          ),
        );
        // In its place until it is read: what is kept for slow readers then has the same end as what is drawn.
        const isSent = await sendWhole(outgoing, json, state.settings.slowReaderMs, controller.signal);
        if (!isSent) c.set('outcome', 'aborted');
        return RESPONSE_ALREADY_SENT;
      }
      if (request.includeUsage) await stream.send(format.usage(usage));
      await stream.end();
      return RESPONSE_ALREADY_SENT;
    } finally {
      leave();
    }
  } catch (error) {
    if (error instanceof ClientGone || outgoing.destroyed) {
      c.set('outcome', 'aborted');
      return RESPONSE_ALREADY_SENT;
    }
    if (IntFlashError.isInstance(error) && error.code === 'ERR_DEVICE_LOST') state.fail(error);
    if (!stream.hasStarted) throw error;
    const refusal = asApiError(error);
    if (refusal.status === 500) state.report(error);
    c.set('outcome', String(refusal.status));
    stream.fail(refusal.body);
    return RESPONSE_ALREADY_SENT;
  } finally {
    outgoing.off('close', onClose);
    done();
  }
}

interface DrawResult {
  readonly drawn: DrawnChoice;
  readonly tokens: number;
}

/** Draws one choice to its end; with a format, each token goes out as it comes. */
async function draw(
  state: ServeState,
  choice: Choice,
  arrived: number,
  format: AnswerFormat | undefined,
  stream: EventStream,
  canBeCut: boolean,
): Promise<DrawResult> {
  const { index } = choice;
  const kept = new KeptAnswer();
  const tellable = new ToldTokens(canBeCut);
  const tokens: ToldToken[] = [];
  let text = '';
  let count = 0;
  let finishReason: 'stop' | 'length' = 'length';
  for await (const token of choice.tokens) {
    if (count++ === 0) {
      state.metrics.timeToFirstToken.observe((performance.now() - arrived) / 1000);
      for (const event of format?.opening(index) ?? []) await stream.send(event);
    }
    state.metrics.completionTokens.inc();
    if (token.finishReason) finishReason = token.finishReason;
    const hasLogprobs = token.logprob !== undefined;
    const told = hasLogprobs ? tellable.push(token) : [];
    if (format) {
      const event = format.piece(index, token.text, told);
      const slow = event === undefined ? undefined : stream.send(event);
      if (slow) await slow;
    } else {
      kept.add(token.text.length, hasLogprobs ? 1 + (token.topLogprobs?.length ?? 0) : 0);
      for (const one of told) tokens.push(one);
      text += token.text;
    }
  }
  for (const event of format?.closing(index, finishReason) ?? []) await stream.send(event);
  return { drawn: { index, text, tokens, finishReason }, tokens: count };
}

/** All of them, or the first failure once every other one has ended too. */
async function allOrAbort<T>(work: readonly Promise<T>[], controller: AbortController): Promise<T[]> {
  try {
    return await Promise.all(work);
  } catch (error) {
    controller.abort(error);
    await Promise.allSettled(work);
    throw error;
  }
}
