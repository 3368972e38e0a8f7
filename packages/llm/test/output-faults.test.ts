import { cp, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { IntFlashError } from '@int-flash/ops';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { quantizeCheckpoint } from '../src/index.js';

/** What the system says against a call, by its name and the last part of its path. `create` opens a new file; what is read is spared. */
const faults = vi.hoisted(() => new Map<string, Error>());

vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>();
  const fail = (call: string, path: unknown) => {
    const fault = faults.get(`${call} ${basename(String(path))}`) ?? faults.get(call);
    if (fault) throw fault;
  };
  const failing = (name: 'chmod' | 'readdir' | 'rm' | 'writeFile') => {
    const call = real[name] as (...values: unknown[]) => Promise<unknown>;
    return async (...values: unknown[]) => {
      fail(name, values[0]);
      return call(...values);
    };
  };
  const open: typeof real.open = async (path, flags, mode) => {
    const isNew = flags === 'wx';
    fail(isNew ? 'create' : 'open', path);
    const file = await real.open(path, flags, mode);
    if (!isNew) return file;
    const close = file.close.bind(file);
    const closing = async () => {
      await close();
      fail('close', path);
    };
    Object.defineProperty(file, 'close', { value: closing });
    for (const name of ['write', 'sync'] as const) {
      const call = file[name].bind(file) as (...values: unknown[]) => Promise<unknown>;
      const faulty = async (...values: unknown[]) => {
        fail(name, path);
        return call(...values);
      };
      Object.defineProperty(file, name, { value: faulty });
    }
    return file;
  };
  return {
    ...real,
    open,
    chmod: failing('chmod'),
    readdir: failing('readdir'),
    rm: failing('rm'),
    writeFile: failing('writeFile'),
  };
});

const golden = fileURLToPath(new URL('./goldens/llama', import.meta.url));
const root = await mkdtemp(join(tmpdir(), 'int-flash-faults-'));
afterAll(() => rm(root, { recursive: true, force: true }));
afterEach(() => faults.clear());

const to = join(root, 'model');
const systemError = (code: string) =>
  Object.assign(new Error(`${code}: no, write '${join(root, '.int-flash-x')}'`), { code });

async function faultOf(run: () => Promise<unknown>): Promise<IntFlashError> {
  const error = await run().then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(IntFlashError);
  return error as IntFlashError;
}

describe('what the system says against writing a model', () => {
  it.each([
    ['create model.safetensors', 'EROFS', 'model.safetensors'],
    ['write model.safetensors', 'ENOSPC', 'model.safetensors'],
    ['write model.safetensors', 'EIO', 'model.safetensors'],
    ['sync model.safetensors', 'EDQUOT', 'model.safetensors'],
    ['close model.safetensors', 'EIO', 'model.safetensors'],
    ['writeFile config.json', 'ENOSPC', 'config.json'],
    ['writeFile config.json', 'EISDIR', 'config.json'],
    ['writeFile config.json', 'EACCES', 'config.json'],
    ['chmod', 'EPERM', 'the output folder'],
  ])('is an argument error: %s, %s', async (call, code, what) => {
    const cause = systemError(code);
    faults.set(call, cause);
    const error = await faultOf(() => quantizeCheckpoint(golden, to));
    expect(error).toMatchObject({ code: 'ERR_ARG_RANGE', hint: expect.stringContaining('another folder') });
    expect(error.cause).toBe(cause);
    expect(error.message).toContain(what);
    expect(error.message).toMatch(new RegExp(`^Expected .*, got ${code}$`));
    if (what !== 'the output folder') expect(error.message).toContain(JSON.stringify(to));
    expect(error.message).not.toContain('.int-flash-');
    faults.clear();
    expect(await readdir(root)).toEqual([]);
  });

  it('says that room is short where it is', async () => {
    faults.set('write model.safetensors', systemError('ENOSPC'));
    expect((await faultOf(() => quantizeCheckpoint(golden, to))).hint).toContain('Free some space');
  });

  it('stays the error where cleaning up fails too', async () => {
    const cause = systemError('EROFS');
    faults.set('write model.safetensors', cause);
    faults.set('rm', systemError('EACCES'));
    expect((await faultOf(() => quantizeCheckpoint(golden, to))).cause).toBe(cause);
    faults.clear();
    for (const left of await readdir(root)) await rm(join(root, left), { recursive: true });
  });

  it('is what came first, where closing the file fails as well', async () => {
    faults.set('write model.safetensors', systemError('ENOSPC'));
    faults.set('close model.safetensors', systemError('EIO'));
    expect((await faultOf(() => quantizeCheckpoint(golden, to))).message).toContain('ENOSPC');
    faults.clear();
    faults.set('close model.safetensors', systemError('EIO'));
    expect((await faultOf(() => quantizeCheckpoint(golden, to))).message).toContain('EIO');
  });

  it('is none of what a signal, or the caller’s own function, says', async () => {
    for (const reason of [new Error('enough'), systemError('ENOSPC'), 'enough']) {
      const early = quantizeCheckpoint(golden, to, { signal: AbortSignal.abort(reason) });
      await expect(early).rejects.toBe(reason);
      const controller = new AbortController();
      const onProgress = () => controller.abort(reason);
      await expect(quantizeCheckpoint(golden, to, { signal: controller.signal, onProgress })).rejects.toBe(reason);
      const throwing = () => {
        throw reason;
      };
      await expect(quantizeCheckpoint(golden, to, { onProgress: throwing })).rejects.toBe(reason);
      expect(await readdir(root)).toEqual([]);
    }
  });
});

describe('what goes with a model', () => {
  it('is refused as a file of it where it cannot be read, and left out where a link leads nowhere', async () => {
    const from = join(root, 'from');
    await cp(golden, from, { recursive: true });
    await writeFile(join(from, 'LICENSE'), 'yours');
    await symlink(join(root, 'nowhere'), join(from, 'NOTICE'));
    const cause = systemError('EACCES');
    for (const [call, what] of [
      ['open LICENSE', 'LICENSE'],
      ['readdir from', 'the model folder'],
    ] as const) {
      faults.set(call, cause);
      const error = await faultOf(() => quantizeCheckpoint(from, to));
      expect(error).toMatchObject({ code: 'ERR_MODEL_FORMAT', message: `Expected ${what} to be readable, got EACCES` });
      expect(error.cause).toBe(cause);
      faults.clear();
    }
    faults.set('writeFile LICENSE', cause);
    expect((await faultOf(() => quantizeCheckpoint(from, to))).message).toContain('LICENSE');
    faults.clear();
    await quantizeCheckpoint(from, to);
    expect((await readdir(to)).sort()).toEqual(['LICENSE', 'config.json', 'model.safetensors']);
    expect(await readFile(join(to, 'LICENSE'), 'utf8')).toBe('yours');
  });
});
