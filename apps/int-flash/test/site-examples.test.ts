import { readdirSync, readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { modelFolder, runFake } from './fake-app.js';
import { blocksOf, runExample } from './run-example.js';

const pages = new URL('../../../docs/site/', import.meta.url);
const documents = readdirSync(pages).map((name) => ({ name, text: readFileSync(new URL(name, pages), 'utf8') }));
const programs = documents.flatMap(({ name, text }) =>
  blocksOf(text, 'js').map((program, i) => ({ name, i, program })),
);
const commands = documents
  .flatMap(({ text }) => blocksOf(text, 'sh'))
  .flatMap((block) => block.trim().split('\n'))
  .filter((line) => line.startsWith('npx int-flash '));

describe('the site', { timeout: 120_000 }, () => {
  beforeAll(() => process.chdir(modelFolder())); // some commands write where they stand

  it('has examples', () => {
    expect(programs.length).toBeGreaterThanOrEqual(3);
    expect(commands.length).toBeGreaterThanOrEqual(5);
  });

  it.each(programs)('shows a program that runs: $name $i', ({ program }) => {
    const { status, stdout, stderr } = runExample(program);
    expect(stderr).toBe('');
    expect(stdout.length).toBeGreaterThan(10);
    expect(status).toBe(0);
  });

  it.each(commands.filter((line) => !/ --web| serve /.test(line)))(
    'shows a command that is understood: %s',
    async (line) => {
      const { code, stderr } = await runFake(line.split(' ').slice(2), { env: { INT_FLASH_MODEL: modelFolder() } });
      expect(stderr).not.toContain('ERR_USAGE');
      expect(code).not.toBe(2);
    },
  );
});
