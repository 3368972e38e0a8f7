import { existsSync } from 'node:fs';
import type { DemoResult } from './demo-result.js';
import { labelled, rule } from './screen.js';
import type { Paint } from './terminal.js';
import { formatBytes, formatCount, formatPercent, formatRate, formatSeconds } from './units.js';

/** What just ran, in at most 20 lines of at most `columns` columns. */
export function demoScreen(result: DemoResult, columns: number, paint: Paint): string {
  const { facts, backend } = result.model;
  const row = (label: string, text: string) => labelled(label, text, columns, paint);
  const place = [backend.name, backend.isa, threads(backend.threads)].filter(Boolean).join(', ');
  return [
    rule('what just ran', columns, paint),
    row(
      'model',
      `${facts.name}: ${facts.architecture}, ${formatCount(facts.parameters)} parameters, ${facts.weights} weights, ${formatBytes(facts.bytes)}`,
    ),
    row('backend', `${place}. ${result.model.whyBackend}`),
    row('attention', attentionText(result)),
    row(
      'speed',
      `${formatRate(result.tokensPerSecond)}, first token after ${formatSeconds(result.timeToFirstTokenMs)}, loaded in ${formatSeconds(result.loadMs)}; ${result.generatedTokens} tokens, seed ${result.seed}`,
    ),
    row('error', errorText(result)),
    rule('try next', columns, paint),
    ...suggestions().map(([command, what]) => `${command.padEnd(columns - 26)}  ${paint.dim(what)}`),
    '',
  ].join('\n');
}

function attentionText({ model }: DemoResult): string {
  if (model.attention === 'fp32') return `fp32; keys and values cached as ${model.kvCacheDtype}`;
  return `INT8: Q·Kᵀ and P·V multiply int8 codes and add in int32; keys and values cached as ${model.kvCacheDtype}`;
}

function errorText({ difference, model }: DemoResult): string {
  if (!difference) return 'none to measure: this was fp32 attention';
  const { relativeL2, maxAbsolute, sameGreedyToken, positions } = difference;
  const what = model.attention === 'int8' ? 'INT8 attention' : 'this cache';
  return `${what} against fp32 attention on these ${positions} tokens: logits ${formatPercent(relativeL2)} apart (relative L2), at most ${maxAbsolute.toPrecision(2)}; same likeliest next token at ${sameGreedyToken} of ${positions} positions`;
}

function threads(count: number | undefined): string | undefined {
  return count === undefined ? undefined : `${count} thread${count === 1 ? '' : 's'}`;
}

/** How this copy of the command is called: by npm in a checkout of the repository, by its name where it is installed. */
function suggestions(): [command: string, what: string][] {
  const inRepository = existsSync(new URL('../../../pnpm-workspace.yaml', import.meta.url));
  const demo = inRepository ? 'npm run demo --' : 'int-flash demo';
  const command = inRepository ? 'node apps/int-flash/dist/cli.js' : 'int-flash';
  return [
    [`${demo} --prompt "Tell me about a king."`, 'your own prompt'],
    [`${demo} --kv-cache-dtype int4`, 'half the cache'],
    [`${demo} --backend portable`, 'no native code'],
    [`${command} chat`, 'talk to it'],
    [`${command} doctor`, 'what this machine has'],
  ];
}
