import { describe, expect, it } from 'vitest';
import { modelFolder, promptText, runFake } from './fake-app.js';

const model = modelFolder();

describe('chat', () => {
  it('remembers the conversation until /reset and ends at /exit', async () => {
    const stdin = 'one\n\ntwo\n/what\n/reset\nthree\n/exit\nfour\n';
    const run = await runFake(['chat', '--model', model, '--system', 'S', '--quiet'], { stdin });
    expect(run.prompts.map(promptText)).toEqual([
      'system: S user: one',
      'system: S user: one assistant: Hello there. user: two',
      'system: S user: three',
    ]);
    expect(run).toMatchObject({ code: 0, stdout: 'Hello there.\n'.repeat(3), alive: 0 });
    expect(run.stderr).toBe('No command /what. There are /reset and /exit.\n');
  });

  it('drops the oldest turns, never the system message, when the context is full', async () => {
    const stdin = 'one\ntwo\nthree\n';
    const run = await runFake(['chat', '--model', model, '--system', 'S', '--max-tokens', '4'], {
      stdin,
      contextLength: 12,
    });
    expect(run.prompts.map(promptText)).toEqual([
      'system: S user: one',
      'system: S user: two',
      'system: S user: three',
    ]);
    expect(run.stderr.match(/^without the oldest turn: the context is full$/gm)).toHaveLength(2);
  });

  it('asks nothing where a message is longer than the context, says so, and goes on', async () => {
    const run = await runFake(['chat', '--model', model, '--quiet'], {
      stdin: `one\n${'word '.repeat(40)}\ntwo\n`,
      contextLength: 30,
    });
    expect(run.prompts.map(promptText)).toEqual(['user: one', 'user: one assistant: Hello there. user: two']);
    expect(run).toMatchObject({ code: 0, alive: 0 });
    expect(run.stderr).toMatch(/^Too long: \d+ tokens, the context takes 29\. Nothing was asked\.\n$/);
  });

  it('prints a JSON object a turn', async () => {
    const run = await runFake(['chat', '--model', model, '--json'], { stdin: 'one\ntwo\n' });
    const turns = run.stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(turns).toMatchObject([
      { prompt: 'one', text: 'Hello there.' },
      { prompt: 'two', text: 'Hello there.' },
    ]);
  });

  it('needs a chat template', async () => {
    expect(await runFake(['chat', '--model', model], { chatTemplate: false })).toMatchObject({ code: 2, alive: 0 });
  });
});
