import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { runCommand } from './run-command.js';
import { blocksOf, runExample } from './run-example.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const readme = readFileSync(`${root}README.md`, 'utf8');
const blocks = (language: string) => blocksOf(readme, language);

function node(args: readonly string[], input: string) {
  return spawnSync(process.execPath, args, {
    cwd: root,
    input,
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '' },
  });
}

describe('the README', { timeout: 120_000 }, () => {
  it.each(blocks('js').map((program) => ({ imports: program.match(/from '(.*?)'/)![1], program })))(
    'has an example of $imports that runs as it stands',
    ({ program }) => {
      const { status, stdout, stderr } = runExample(program);
      expect(stderr).toBe('');
      expect(stdout.length).toBeGreaterThan(10);
      expect(status).toBe(0);
    },
  );

  const commands = blocks('sh')
    .flatMap((block) => block.trim().split('\n'))
    .filter((line) => line.startsWith('node '))
    .map((line) => ({
      line,
      words: [...line.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!).slice(1),
    }));
  const isServer = ({ words }: { words: readonly string[] }) => words[1] === 'serve';

  it.each(commands.filter((command) => !isServer(command)))('has a command that runs: $line', ({ words }) => {
    const { status, stdout } = node(words, 'Hello!\n/exit\n');
    expect(status).toBe(0);
    expect(stdout.length).toBeGreaterThan(0);
  });

  it.each(commands.filter(isServer))('has a command that serves until it is told to stop: $line', async ({ words }) => {
    let told = false; // once: a second signal ends a server at once
    const { code, stdout } = await runCommand([...words.slice(1), '--port', '0'], {
      onStdout: (soFar, child) => {
        if (told || !/http:\/\/127\.0\.0\.1:\d+/.test(soFar)) return;
        told = true;
        child.kill('SIGTERM');
      },
    });
    expect(stdout).toMatch(/http:\/\/127\.0\.0\.1:\d+/);
    expect(code).toBe(0);
  });
});
