import { mkdtemp, readdir, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { quantizeCheckpoint } from '../src/index.js';
import { refusal } from './refusal.js';

const golden = fileURLToPath(new URL('./goldens/llama', import.meta.url));
const root = await mkdtemp(join(tmpdir(), 'int-flash-output-'));
afterAll(() => rm(root, { recursive: true, force: true }));

const quantize = (to: string) => quantizeCheckpoint(golden, to);

describe('a folder to be written', () => {
  it.runIf(process.platform === 'linux')(
    'is refused where the system has no room for folders',
    { timeout: 10_000 },
    async () => {
      for (const place of ['/proc/foo/bar', '/proc/foo'])
        expect(await refusal(() => quantize(place), 'ERR_ARG_RANGE')).toMatch(/can be made, got ENOENT/);
    },
  );

  it('and the folders around it are made, and taken away when nothing comes of it', async () => {
    await quantize(join(root, 'a', 'b', 'c'));
    expect(await readdir(join(root, 'a', 'b'))).toEqual(['c']);
    const narrow = quantizeCheckpoint(golden, join(root, 'd', 'e', 'f'), { bits: 4 });
    await expect(narrow).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
    expect(await readdir(root)).toEqual(['a']);
  });

  it('may have the longest name there is', async () => {
    const name = 'q'.repeat(255);
    await quantize(join(root, name));
    expect(await readdir(root)).toContain(name);
    await refusal(() => quantize(join(root, `${name}q`)), 'ERR_ARG_RANGE');
  });

  it('is refused where a link leads nowhere', async () => {
    const link = join(root, 'link');
    await symlink(join(root, 'nowhere'), link);
    for (const place of [link, join(link, 'x')]) await refusal(() => quantize(place), 'ERR_ARG_RANGE');
    expect(await readdir(root)).not.toContain('nowhere');
  });

  it.each([false, true])('is one writer’s, of several at once (overwrite: %s)', async (overwrite) => {
    const around = join(root, `several-${overwrite}`);
    const place = join(around, 'model');
    if (overwrite) await quantize(place);
    const results = await Promise.allSettled([1, 2, 3].map(() => quantizeCheckpoint(golden, place, { overwrite })));
    expect(results.some(({ status }) => status === 'fulfilled')).toBe(true);
    for (const result of results)
      if (result.status === 'rejected') await refusal(() => Promise.reject(result.reason), 'ERR_ARG_RANGE');
    expect(await readdir(around)).toEqual(['model']);
    expect((await readdir(place)).sort()).toEqual(['config.json', 'model.safetensors']);
  });
});
