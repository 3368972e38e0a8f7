import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { quantizeCheckpoint, readSafetensors, writeSafetensors } from '../src/index.js';

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

  it('replaces no model by one that loading would refuse', async () => {
    const weights = readSafetensors(await readFile(join(golden, 'model.safetensors')));
    const gain = weights.get('model.norm.weight')!;
    const large = new Float32Array(gain.data.length).fill(3.4e38, 3); // BF16 ends at 3.39e38
    const to = join(root, 'replaced');
    await mkdir(to);
    await writeFile(join(to, 'config.json'), '{}');
    for (const [name, tensor, fault] of [
      ['model.norm.weight', { ...gain, dtype: 'F32', data: large }, /finite in BF16, got 3\.39\d*e\+38 at element 3$/],
      ['model.layers.2.input_layernorm.weight', gain, /weights of 2 layers, .* got layer 2 besides$/],
      ['layers.2.input_layernorm.weight', gain, /weights of 2 layers, .* got layer 2 besides$/],
    ] as const) {
      const from = join(root, name);
      await cp(golden, from, { recursive: true });
      await writeFile(join(from, 'model.safetensors'), writeSafetensors(new Map([...weights, [name, tensor]])));
      await expect(quantizeCheckpoint(from, to, { overwrite: true })).rejects.toMatchObject({
        code: 'ERR_MODEL_FORMAT',
        field: `tensors.${name}`,
        message: expect.stringMatching(fault),
      });
      expect(await readdir(to)).toEqual(['config.json']);
    }
  });
});
