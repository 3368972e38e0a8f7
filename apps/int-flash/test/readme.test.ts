import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { modelFolder, runFake } from './fake-app.js';

const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
const commands = [...readme.matchAll(/```sh\n([^`]+)```/g)].flatMap(([, block]) => block!.trim().split('\n'));

describe('the README', () => {
  beforeAll(() => process.chdir(modelFolder())); // some commands write where they stand

  it('names every command', async () => {
    const { stdout } = await runFake(['--help']);
    const names = [...stdout.matchAll(/^ {2}(\w+) \[options\]/gm)].map(([, name]) => name);
    expect(names.length).toBeGreaterThanOrEqual(7);
    for (const name of names) expect(readme).toMatch(new RegExp(`\\| \`${name}[ \`]`));
  });

  it.each(commands)('shows a command line that is understood: %s', async (line) => {
    const words = [...line.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!);
    expect(words[0]).toBe('int-flash');
    const run = await runFake([...words.slice(1)], { env: { INT_FLASH_MODEL: modelFolder() } });
    expect(run.stderr).not.toContain('ERR_USAGE');
    expect(run.code).not.toBe(2);
  });
});
