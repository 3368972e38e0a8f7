import { cp, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { quantizeCheckpoint } from '../src/index.js';

const golden = fileURLToPath(new URL('./goldens/llama', import.meta.url));
const root = await mkdtemp(join(tmpdir(), 'int-flash-overwrite-'));
afterAll(() => rm(root, { recursive: true, force: true }));

describe('quantizeCheckpoint, told to overwrite', () => {
  it('overwrites no folder that holds something else, nor its input by another path', async () => {
    const overwrite = (from: string, to: string) => quantizeCheckpoint(from, to, { overwrite: true });
    const notes = join(root, 'notes');
    await mkdir(notes);
    await writeFile(join(notes, 'notes.txt'), 'mine');
    await expect(overwrite(golden, notes)).rejects.toMatchObject({
      code: 'ERR_ARG_RANGE',
      message: expect.stringContaining('"notes.txt"'),
    });
    expect(await readdir(notes)).toEqual(['notes.txt']);

    const around = join(root, 'around');
    const input = join(around, 'input');
    await cp(golden, input, { recursive: true });
    const link = join(root, 'link');
    await symlink(input, link, 'junction');
    const before = await readdir(input);
    for (const [from, to] of [
      [link, input],
      [input, link],
      [input, around],
      [link, around],
      [input, join(around, 'nowhere', '..', 'input')],
    ] as const)
      await expect(overwrite(from, to)).rejects.toMatchObject({ code: 'ERR_ARG_RANGE' });
    expect(await readdir(input)).toEqual(before);
  });
});
