import { addAbortSignal } from 'node:stream';
import { text as readAll } from 'node:stream/consumers';
import type { Command } from 'commander';
import { type Answer, answer } from '../answer.js';
import type { App } from '../app.js';
import { UsageError } from '../failures.js';
import { withModel } from '../load.js';
import {
  type ModelOptions,
  type SamplingOptions,
  samplingSettings,
  withModelOptions,
  withSamplingOptions,
} from '../options.js';
import type { Model, Prompt } from '../runtime.js';
import { stoppable } from '../stoppable.js';
import { withoutControls } from '../terminal.js';
import { formatRate, formatSeconds } from '../units.js';

type GenerateOptions = ModelOptions & SamplingOptions & { readonly raw?: boolean };

export function addGenerate(program: Command, app: App): void {
  const command = program
    .command('generate')
    .description('answer one prompt; the text streams to stdout')
    .argument('<prompt>', 'what to answer; - reads it from stdin')
    .option('--raw', 'continue the text as it is, without the chat format');
  withSamplingOptions(withModelOptions(command)).action((prompt: string, options: GenerateOptions) =>
    stoppable(app.terminal, (signal) => generate(app, prompt, options, signal)),
  );
}

async function generate(app: App, argument: string, options: GenerateOptions, signal: AbortSignal): Promise<void> {
  const { terminal } = app;
  if (options.raw && options.system !== undefined) {
    throw new UsageError('--raw continues plain text, which has no place for --system');
  }
  const text = argument === '-' ? await readAll(addAbortSignal(signal, terminal.stdin)) : argument;
  if (text === '')
    throw new UsageError(
      argument === '-' ? 'Expected a prompt on stdin, got nothing' : 'Expected a prompt, got an empty one',
    );
  await withModel(app, options, signal, async ({ model, loadMs }) => {
    const prompt = promptFor(model, text, options);
    const show = terminal.stdout.isTTY ? withoutControls : (piece: string) => piece;
    const result = await answer(model, prompt, samplingSettings(options), signal, async (piece) => {
      if (!options.json) await terminal.write(show(piece));
    });
    if (options.json) {
      await terminal.writeLine(JSON.stringify(generationReport(model, text, result, loadMs), null, 2));
      return;
    }
    if (!result.text.endsWith('\n')) await terminal.writeLine();
    if (!options.quiet) terminal.note(terminal.notePaint.dim(closingLine(result)));
  });
}

function promptFor(model: Model, text: string, options: GenerateOptions): Prompt {
  if (options.raw) return text;
  if (model.hasChatTemplate) return conversation(text, options.system);
  if (options.system !== undefined) throw new UsageError('--system needs a model with a chat template');
  return text;
}

export function conversation(text: string, system: string | undefined): Prompt {
  const user = { role: 'user', content: text } as const;
  return system === undefined ? [user] : [{ role: 'system', content: system }, user];
}

export function closingLine({ tokenIds, tokensPerSecond, timeToFirstTokenMs, finishReason }: Answer): string {
  const count = `${tokenIds.length} token${tokenIds.length === 1 ? '' : 's'}`;
  const line = `${count} · ${formatRate(tokensPerSecond)} · first token after ${formatSeconds(timeToFirstTokenMs)}`;
  return finishReason === 'length' ? `${line} · cut at the limit (--max-tokens, or the context)` : line;
}

export function generationReport(
  model: Model,
  prompt: string,
  result: Answer,
  loadMs: number,
): Record<string, unknown> {
  return {
    model: model.facts.name,
    backend: model.backend.name,
    isa: model.backend.isa ?? null,
    threads: model.backend.threads ?? null,
    attention: model.attention,
    kvCacheDtype: model.kvCacheDtype,
    kvKeyScales: model.kvKeyScales,
    seed: result.seed,
    prompt,
    text: result.text,
    tokenIds: result.tokenIds,
    finishReason: result.finishReason,
    promptTokens: result.promptTokens,
    generatedTokens: result.tokenIds.length,
    loadMs: Math.round(loadMs),
    timeToFirstTokenMs: Math.round(result.timeToFirstTokenMs),
    tokensPerSecond: Math.round(result.tokensPerSecond * 10) / 10,
  };
}
