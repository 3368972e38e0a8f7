import type { Command } from 'commander';
import { type Answer, answer } from '../answer.js';
import type { App } from '../app.js';
import { compareLogits, type LogitDifference, poolDifferences } from '../attention-error.js';
import type { DemoOptions, DemoResult, PlayedScene } from '../demo-result.js';
import { demoScreen } from '../demo-screen.js';
import { UsageError } from '../failures.js';
import { withModel } from '../load.js';
import { findModel } from '../model-folder.js';
import { openInBrowser } from '../open-in-browser.js';
import { samplingSettings, withCacheOptions, withModelOptions, withSamplingOptions } from '../options.js';
import type { Model, Prompt } from '../runtime.js';
import { stoppable } from '../stoppable.js';
import { withoutControls } from '../terminal.js';
import { WordWrap } from '../word-wrap.js';
import { conversation } from './generate.js';

interface Scene {
  readonly prompt: string;
  readonly maxTokens: number;
}

/** One of each thing the shipped model was trained on: small talk, bookings, old stories. */
const SCENES: readonly Scene[] = [
  { prompt: 'Hello! Who are you?', maxTokens: 40 },
  { prompt: 'I would like to find a restaurant in San Jose.', maxTokens: 40 },
  { prompt: 'Tell me a story about a fox.', maxTokens: 120 },
];
/** Of 1 to 12 the one whose story comes to an end. */
const DEFAULT_SEED = 12;

const PAGE_SETTINGS = { host: '127.0.0.1', port: 0, maxRunning: 64, maxWaiting: 64, drain: 0 } as const;

/** What the page's visitors say themselves. */
const PAGE_CHOICES = [
  'prompt',
  'system',
  'seed',
  'maxTokens',
  'temperature',
  'topK',
  'topP',
  'minP',
  'repeatPenalty',
  'stop',
] as const satisfies readonly (keyof DemoOptions)[];

export function addDemo(program: Command, app: App): void {
  const command = program
    .command('demo')
    .description('let the shipped model write, with INT8 attention, and say what ran')
    .option('--prompt <text>', 'answer this instead of the three prompts of the demo')
    .option('--web', 'serve the chat page instead, on any free port of this machine');
  withCacheOptions(withSamplingOptions(withModelOptions(command))).action((options: DemoOptions) =>
    options.web ? demoPage(app, options) : stoppable(app.terminal, (signal) => demo(app, options, signal)),
  );
}

/** `int-flash serve` as it comes, and the page opened where there is a desktop to open it. */
async function demoPage(app: App, options: DemoOptions): Promise<void> {
  const chosenThere = PAGE_CHOICES.find((name) => options[name] !== undefined);
  if (chosenThere !== undefined) {
    const flag = chosenThere.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw new UsageError(`Expected --${flag} or --web, got both: on the page, you ask and choose`);
  }
  const { terminal, env } = app;
  const { serve } = await import('../serve/serve.js');
  await serve(app, findModel(options.model, env), { ...PAGE_SETTINGS, ...options }, (url) => {
    if (terminal.stdout.isTTY && !options.json) openInBrowser(url, env);
  });
}

async function demo(app: App, options: DemoOptions, signal: AbortSignal): Promise<void> {
  const { terminal, env } = app;
  // `npm run demo --web` keeps the option for npm itself, which tells of it in the environment alone.
  if (env.npm_lifecycle_event === 'demo' && env.npm_config_web !== undefined) {
    throw new UsageError('Expected --web behind --, got it before', 'With npm: npm run demo -- --web');
  }
  const result = await withModel(app, options, signal, async ({ model, loadMs }): Promise<DemoResult> => {
    const seed = options.seed ?? DEFAULT_SEED;
    const played: PlayedScene[] = [];
    for (const scene of scenesFor(options)) {
      const prompt: Prompt = model.hasChatTemplate ? conversation(scene.prompt, options.system) : scene.prompt;
      const settings = { ...samplingSettings(options), seed, maxTokens: options.maxTokens ?? scene.maxTokens };
      const result = await playScene(app, options, model, scene.prompt, prompt, settings, signal);
      played.push({ prompt: scene.prompt, answer: result, ids: [...model.encode(prompt), ...result.tokenIds] });
    }
    const ids = played.map((scene) => scene.ids);
    const difference = await differenceFromFp32(model, ids, signal);
    return { model, options, seed, loadMs, scenes: played, ...speed(played), ...(difference && { difference }) };
  });
  if (options.json) await terminal.writeLine(JSON.stringify(demoReport(result), null, 2));
  else await terminal.write(demoScreen(result, terminal.columns, terminal.paint));
}

function scenesFor({ prompt }: DemoOptions): readonly Scene[] {
  return prompt === undefined ? SCENES : [{ prompt, maxTokens: 120 }];
}

async function playScene(
  { terminal }: App,
  options: DemoOptions,
  model: Model,
  question: string,
  prompt: Prompt,
  settings: Parameters<Model['generate']>[1],
  signal: AbortSignal,
): Promise<Answer> {
  if (options.json) return answer(model, prompt, settings, signal, async () => {});
  const { bold, cyan, green } = terminal.paint;
  const wrapWidth = terminal.columns - 8;
  const wrap = new WordWrap(wrapWidth, '       ');
  const asked = new WordWrap(wrapWidth, '       ');
  const said = (asked.push(withoutControls(question)) + asked.end()).trimStart();
  await terminal.write(`${bold(cyan('you'))}    ${said}\n${bold(green('model'))}  `);
  let begun = false;
  const show = async (text: string) => {
    if (!begun) text = text.trimStart(); // the speaker's name stands where the first indent would
    if (text !== '') await terminal.write(text);
    begun ||= text !== '';
  };
  const result = await answer(model, prompt, settings, signal, (text) => show(wrap.push(withoutControls(text))));
  if (result.finishReason === 'length') await show(wrap.push(' …'));
  await show(wrap.end());
  await terminal.write('\n\n');
  return result;
}

/** Scores the same tokens once more with attention and cache in fp32, everything else equal. */
async function differenceFromFp32(
  model: Model,
  texts: readonly (readonly number[])[],
  signal: AbortSignal,
): Promise<LogitDifference | undefined> {
  const { attention, kvCacheDtype } = model;
  if (attention === 'fp32' && kvCacheDtype === 'fp32') return undefined;
  const differences: LogitDifference[] = [];
  for (const ids of texts) {
    const truth = await model.logits(ids, { attention: 'fp32', kvCacheDtype: 'fp32' }, signal);
    const got = await model.logits(ids, { attention, kvCacheDtype }, signal);
    differences.push(compareLogits(got, truth, model.facts.vocabularySize));
  }
  return poolDifferences(differences);
}

function speed(scenes: readonly PlayedScene[]) {
  const generatedTokens = scenes.reduce((sum, { answer }) => sum + answer.tokenIds.length, 0);
  const seconds = scenes.reduce((sum, { answer }) => {
    const timed = answer.tokenIds.length - (answer.tokenIds.length > 1 ? 1 : 0);
    return sum + (answer.tokensPerSecond > 0 ? timed / answer.tokensPerSecond : 0);
  }, 0);
  const timed = scenes.reduce((sum, { answer }) => sum + Math.max(answer.tokenIds.length - 1, 0), 0);
  return {
    generatedTokens,
    tokensPerSecond: seconds > 0 ? timed / seconds : 0,
    timeToFirstTokenMs: scenes[0]!.answer.timeToFirstTokenMs,
  };
}

function demoReport(result: DemoResult): Record<string, unknown> {
  const { model, options, difference } = result;
  return {
    model: model.facts,
    backend: { ...model.backend, requested: options.backend, why: model.whyBackend },
    attention: model.attention,
    kvCacheDtype: model.kvCacheDtype,
    kvKeyScales: model.kvKeyScales,
    seed: result.seed,
    answers: result.scenes.map(({ prompt, answer }) => ({
      prompt,
      text: answer.text,
      tokenIds: answer.tokenIds,
      finishReason: answer.finishReason,
    })),
    generatedTokens: result.generatedTokens,
    tokensPerSecond: Math.round(result.tokensPerSecond * 10) / 10,
    timeToFirstTokenMs: Math.round(result.timeToFirstTokenMs),
    loadMs: Math.round(result.loadMs),
    differenceFromFp32Attention: difference ? told(difference) : null,
  };
}

/** What {@link LogitDifference} holds for others to read: not a text's weight among several. */
function told({ squaredTruth: _, ...difference }: LogitDifference): Omit<LogitDifference, 'squaredTruth'> {
  return difference;
}
