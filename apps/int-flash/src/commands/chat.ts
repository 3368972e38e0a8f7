import type { Command } from 'commander';
import { answer } from '../answer.js';
import type { App } from '../app.js';
import { EXIT, fateOfOutput, Stopped, UsageError } from '../failures.js';
import { loadModel } from '../load.js';
import { messageLines } from '../message-lines.js';
import {
  type ModelOptions,
  type SamplingOptions,
  samplingSettings,
  withModelOptions,
  withSamplingOptions,
} from '../options.js';
import type { ChatMessage, Model } from '../runtime.js';
import { stoppable } from '../stoppable.js';
import { withoutControls } from '../terminal.js';
import { closingLine, generationReport } from './generate.js';

type ChatOptions = ModelOptions & SamplingOptions;

/** Tokens kept free for an answer when old turns are dropped to make room. */
const ROOM_FOR_ANSWER = 128;

export function addChat(program: Command, app: App): void {
  const command = program
    .command('chat')
    .description('talk with the model; /reset forgets, /exit leaves, Ctrl-C stops an answer');
  withSamplingOptions(withModelOptions(command)).action((options: ChatOptions) => chat(app, options));
}

async function chat(app: App, options: ChatOptions): Promise<void> {
  const { terminal } = app;
  const { model, loadMs } = await stoppable(terminal, (signal) => loadModel(app, options, signal));
  try {
    if (!model.hasChatTemplate) throw new UsageError('chat needs a model with a chat template', 'Use generate --raw.');
    if (!options.quiet && terminal.stderr.isTTY) {
      terminal.note(
        terminal.notePaint.dim(
          `${model.facts.name} on ${model.backend.name}. /reset forgets, /exit leaves, Ctrl-C stops an answer.`,
        ),
      );
    }
    let messages: ChatMessage[] = opening(options);
    for await (const line of messageLines(terminal)) {
      const text = line.trim();
      if (text === '') continue;
      if (text === '/exit' || text === '/quit') break;
      if (text === '/reset') {
        messages = opening(options);
        if (!options.quiet) terminal.note(terminal.notePaint.dim('forgotten'));
        continue;
      }
      if (/^\/\w+$/.test(text)) {
        terminal.note(terminal.notePaint.dim(`No command ${withoutControls(text)}. There are /reset and /exit.`));
        continue;
      }
      const all: ChatMessage[] = [...messages, { role: 'user', content: text }];
      const asked = withRoom(model, all, options.maxTokens);
      const [tokens, most] = [model.encode(asked).length, model.facts.contextLength - 1];
      if (tokens > most) {
        terminal.note(
          terminal.notePaint.dim(`Too long: ${tokens} tokens, the context takes ${most}. Nothing was asked.`),
        );
        continue;
      }
      if (asked.length < all.length && !options.quiet) {
        const left = (all.length - asked.length) / 2;
        terminal.note(
          terminal.notePaint.dim(`without the oldest ${left === 1 ? 'turn' : `${left} turns`}: the context is full`),
        );
      }
      const content = await reply(app, options, model, asked, loadMs);
      messages = [...asked, { role: 'assistant', content }];
      if (terminal.closed.aborted) throw fateOfOutput(terminal.closed.reason);
    }
  } finally {
    await model.dispose();
  }
}

/** One answer, which the first Ctrl-C ends; what was said until then stays in the conversation. */
async function reply(
  app: App,
  options: ChatOptions,
  model: Model,
  messages: ChatMessage[],
  loadMs: number,
): Promise<string> {
  const { terminal } = app;
  const show = terminal.stdout.isTTY ? withoutControls : (piece: string) => piece;
  let said = '';
  try {
    await stoppable(terminal, async (signal) => {
      const result = await answer(model, messages, samplingSettings(options), signal, async (piece) => {
        said += piece;
        if (!options.json) await terminal.write(show(piece));
      });
      const question = messages.at(-1)!.content;
      if (options.json) await terminal.writeLine(JSON.stringify(generationReport(model, question, result, loadMs)));
      else await terminal.writeLine();
      if (!options.json && !options.quiet) terminal.note(terminal.notePaint.dim(closingLine(result)));
    });
  } catch (error) {
    if (!(error instanceof Stopped) || error.exitCode !== EXIT.interrupted || !terminal.stdin.isTTY) throw error;
    await terminal.writeLine();
    terminal.note(terminal.notePaint.dim('stopped; Ctrl-C again leaves'));
  }
  return said;
}

function opening({ system }: ChatOptions): ChatMessage[] {
  return system === undefined ? [] : [{ role: 'system', content: system }];
}

/** Drops the oldest question and answer until the rest leaves room for another answer. The system message stays. */
function withRoom(model: Model, messages: readonly ChatMessage[], maxTokens = ROOM_FOR_ANSWER): ChatMessage[] {
  const kept = [...messages];
  const first = kept[0]?.role === 'system' ? 1 : 0;
  const room = Math.min(maxTokens, Math.floor(model.facts.contextLength / 2));
  while (kept.length > first + 2 && model.encode(kept).length + room > model.facts.contextLength) kept.splice(first, 2);
  return kept;
}
