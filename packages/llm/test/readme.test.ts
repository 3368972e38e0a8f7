import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const root = new URL('../', import.meta.url);

it('README’s example prints what it says', { timeout: 120_000 }, () => {
  expect(existsSync(new URL('dist/index.js', root)), 'packages/llm is built (npm run build)').toBe(true);
  const text = readFileSync(new URL('README.md', root), 'utf8');
  const [, program, prints] = text.match(/```js\n(.*?)```\n\n```text\n(.*?)```/s)!;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module'], {
    input: program,
    cwd: fileURLToPath(root),
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '' },
  });
  expect(stderr).toBe('');
  expect(stdout).toBe(prints);
  expect(status).toBe(0);
});
