import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { judgeAttention, judgeQuantizedAttention } from '@int-flash/ops';
import { afterAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { findAddon, type NativeAddon } from '../src/native-addon.js';

const folder = mkdtempSync(join(tmpdir(), 'int-flash-cuda-addon-'));
const file = (name: string, content: string) => {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
};
const built = file('built.node', '');
const absent = join(folder, 'absent.node');
afterAll(() => rmSync(folder, { recursive: true }));

describe('findAddon', () => {
  const some = () => ({}) as NativeAddon;
  const addons = { given: some(), built: some(), prebuilt: some() };
  const broken = new Error('wrong ELF class');
  const load = (path: string) => (path === built ? addons.built : addons.given);
  const loadPrebuilt = () => addons.prebuilt;
  const fail = (error: Error) => () => {
    throw error;
  };
  const notFound = Object.assign(new Error('Cannot find module'), { code: 'MODULE_NOT_FOUND' });

  it('takes the one that is named, then the build, then the platform package', () => {
    expect(findAddon({ given: 'x.node', built, load, loadPrebuilt })).toEqual({ addon: addons.given, path: 'x.node' });
    expect(findAddon({ built, load, loadPrebuilt })).toEqual({ addon: addons.built, path: built });
    const prebuilt = { addon: addons.prebuilt, path: '@int-flash/kernels-cuda-linux-x64' };
    expect(findAddon({ built: absent, load, loadPrebuilt })).toEqual(prebuilt);
    expect(findAddon({ built, load: fail(broken), loadPrebuilt })).toEqual(prebuilt);
  });

  it('does not look elsewhere when the named one does not load', () => {
    expect(findAddon({ given: 'x.node', built, load: fail(notFound), loadPrebuilt })).toEqual({
      addon: undefined,
      reason: 'addon-load-failed',
      cause: notFound,
    });
  });

  it('tells an addon that is not there from addons that do not load, and names every failure', () => {
    const missing = { addon: undefined, reason: 'addon-not-installed', cause: undefined };
    expect(findAddon({ built: absent, load })).toEqual(missing);
    expect(findAddon({ built: absent, load, loadPrebuilt: fail(notFound) })).toEqual(missing);
    expect(findAddon({ built: absent, load, loadPrebuilt: fail(broken) })).toMatchObject({
      reason: 'addon-load-failed',
      cause: broken,
    });
    const both = findAddon({ built, load: fail(new Error('GLIBC_2.38')), loadPrebuilt: fail(broken) });
    expect(both).toMatchObject({
      reason: 'addon-load-failed',
      cause: { errors: [{ message: 'GLIBC_2.38' }, broken], message: 'GLIBC_2.38; wrong ELF class' },
    });
  });
});

describe('a package whose addon does not load', () => {
  const withPath = async (path: string) => {
    vi.stubEnv('INTFLASH_CUDA_ADDON_PATH', path);
    return import('../src/index.js');
  };
  beforeEach(() => {
    vi.resetModules();
    return () => vi.unstubAllEnvs();
  });

  it.each([
    ['is not there', absent, 'Cannot find module'],
    ['is no addon', file('text.node', 'not an addon'), 'text.node'],
  ])('says so when it %s, and throws with the cause where a GPU is asked for', async (_, path, message) => {
    const { cudaStatus, createCudaBackend, openCudaDevice } = await withPath(path);
    const { available, reason, detail, hint } = cudaStatus();
    expect({ available, reason }).toEqual({ available: false, reason: 'addon-load-failed' });
    expect(detail).toContain(message);
    expect(detail).not.toMatch(/\n|Require stack/);
    expect(hint).toContain('npm run build');
    for (const open of [() => createCudaBackend(), () => openCudaDevice(), () => openCudaDevice(3)])
      expect(open).toThrow(
        expect.objectContaining({
          code: 'ERR_UNSUPPORTED',
          reason: 'addon-load-failed',
          hint,
          cause: expect.objectContaining({ message: expect.stringContaining(message) }),
        }),
      );
  });

  it('judges what it is given before what the machine has', async () => {
    const { cudaStatus, createCudaBackend, openCudaDevice } = await withPath(absent);
    const calls: [() => unknown, string][] = [
      [() => createCudaBackend(null as never), 'ERR_ARG_TYPE'],
      [() => createCudaBackend({ kernl: 'auto' } as never), 'ERR_ARG_RANGE'],
      [() => createCudaBackend({ kernel: 'ampere' as never }), 'ERR_ARG_RANGE'],
      [() => createCudaBackend({ kernel: 3 as never }), 'ERR_ARG_TYPE'],
      [() => openCudaDevice(-1), 'ERR_ARG_RANGE'],
      [() => openCudaDevice('0' as never), 'ERR_ARG_TYPE'],
      [() => cudaStatus(64), 'ERR_ARG_RANGE'],
      [() => cudaStatus(null as never), 'ERR_ARG_TYPE'],
    ];
    for (const [call, code] of calls) expect(call).toThrow(expect.objectContaining({ code }));
  });
});

describe('createCudaBackend', () => {
  const backendOf = async (options?: { readonly kernel?: 'auto' | 'hopper' }) => {
    vi.resetModules();
    vi.stubEnv('INTFLASH_CUDA_ADDON_PATH', file('answers.cjs', answers));
    const { createCudaBackend } = await import('../src/index.js');
    const backend = createCudaBackend(options);
    vi.unstubAllEnvs();
    return backend;
  };
  const plainPlan = () => {
    const floats = { type: 'float32', dims: [1, 1, 2, 8], data: new Float32Array(16) };
    return judgeAttention({ query: floats, key: floats, value: floats }, { returnLse: true });
  };
  const answers = `module.exports = {
    probe: () => ({
      driverVersion: 13000, runtimeVersion: 13000, architectures: '90a-real',
      devices: [{ name: 'none', major: 9, minor: 0, totalBytes: 1 }],
    }),
    openDevice: () => ({}),
    deviceFacts: () => ({ name: 'none', major: 9, minor: 0, processors: 1, totalBytes: 1 }),
    createLinear: () => ({}),
    attention: async (_, { kernel }) => refuse(kernel),
    attentionSync: (_, { kernel }) => refuse(kernel),
  };
  function refuse(kernel) {
    throw Object.assign(new Error('kernel ' + kernel), { code: 'ERR_UNSUPPORTED' });
  }`;

  it.each([
    ['auto', 0],
    ['hopper', 3],
  ] as const)('hands the kernel that is named, %s, to every attention', async (kernel, number) => {
    const backend = await backendOf({ kernel });
    const dims = [1, 1, 2, 8];
    const codes = { type: 'int8', dims, data: new Int8Array(16) };
    const scale = { type: 'float32', dims: [1, 1, 2], data: new Float32Array(2).fill(1) };
    const coded = judgeQuantizedAttention({
      q: codes,
      k: codes,
      v: codes,
      qScale: scale,
      kScale: scale,
      vScale: scale,
    });
    const plain = plainPlan();
    const refusal = expect.objectContaining({ code: 'ERR_UNSUPPORTED', message: `kernel ${number}` });
    expect(() => backend.attentionSync(plain)).toThrow(refusal);
    expect(() => backend.quantizedAttentionSync(coded)).toThrow(refusal);
    await expect(backend.attention(plain)).rejects.toEqual(refusal);
    await expect(backend.quantizedAttention(coded)).rejects.toEqual(refusal);
  });

  it.each([
    ['out', { outDims: [2 ** 25, 2 ** 26] }, 2 ** 53],
    ['lse', { lseDims: [2 ** 51] }, 2 ** 53],
  ])('says so where no array of the host is long enough for %s', async (_, dims, bytes) => {
    const backend = await backendOf();
    const plan = { ...plainPlan(), ...dims };
    const refusal = { code: 'ERR_OOM', where: 'host', bytes, hint: expect.stringContaining('at a time') };
    expect(() => backend.attentionSync(plan)).toThrow(expect.objectContaining(refusal));
    await expect(backend.attention(plan)).rejects.toMatchObject(refusal);
    const linear = backend.createLinear({ type: 'fp32', rows: 2 ** 51, cols: 0, weights: new Float32Array(0) });
    expect(() => linear.forwardSync(new Float32Array(0), 1)).toThrow(
      expect.objectContaining({ code: 'ERR_OOM', where: 'host', bytes: 2 ** 53 }),
    );
    expect(() => linear.forwardSync(new Float32Array(3), -1)).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
  });
});
