import { createPortableBackend } from '@int-flash/kernels-cpu';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { BACKEND_PROVIDERS } from '../src/backend-providers.js';
import { selectBackend, status } from '../src/select-backend.js';

afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

const provider = (name: string) => BACKEND_PROVIDERS.find((candidate) => candidate.name === name)!;

/** Makes a backend appear available or not, whatever this machine has. */
function pretend(name: 'cuda' | 'cpu', available: boolean): void {
  const gone = { name, available, detail: `no ${name} here.`, reason: 'no-device', hint: 'Buy one.' } as const;
  vi.spyOn(provider(name), 'status').mockReturnValue(available ? { name, available, detail: name } : gone);
}

describe('selectBackend', () => {
  it('takes the first that is available, and gives the same object again', () => {
    pretend('cuda', false);
    pretend('cpu', false);
    expect(selectBackend().name).toBe('portable');
    expect(selectBackend('auto')).toBe(selectBackend('portable'));
  });

  it('refuses options that throw when read', () => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    expect(() => selectBackend('portable', proxy)).toThrow(expect.objectContaining({ code: 'ERR_ARG_TYPE' }));
  });

  it('goes on to the next when one said it could and then could not', () => {
    pretend('cuda', true);
    pretend('cpu', false);
    vi.spyOn(provider('cuda'), 'create').mockImplementation(() => {
      throw new Error('the driver changed its mind');
    });
    expect(selectBackend('auto', { threads: 7 }).name).toBe('portable');
    expect(() => selectBackend('cuda', { threads: 7 })).toThrow('the driver changed its mind');
  });

  it('a named backend that cannot run throws, with reason and hint', () => {
    pretend('cuda', false);
    expect(() => selectBackend('cuda')).toThrow(
      expect.objectContaining({
        code: 'ERR_UNSUPPORTED',
        reason: 'no-device',
        hint: 'Buy one.',
        message: 'Expected backend cuda to be available, got: no cuda here.',
      }),
    );
  });

  it('INT_FLASH_BACKEND overrides auto only, and then names a backend', () => {
    pretend('cuda', false);
    pretend('cpu', true);
    vi.spyOn(provider('cpu'), 'create').mockReturnValue({ ...createPortableBackend(), name: 'cpu' });
    vi.stubEnv('INT_FLASH_BACKEND', 'portable');
    expect(selectBackend('auto', { threads: 3 }).name).toBe('portable');
    expect(selectBackend('cpu', { threads: 3 }).name).toBe('cpu');
    vi.stubEnv('INT_FLASH_BACKEND', 'cuda');
    expect(() => selectBackend()).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED' }));
    vi.stubEnv('INT_FLASH_BACKEND', 'fast');
    expect(() => selectBackend()).toThrow(
      /environment variable INT_FLASH_BACKEND to be one of auto, cuda, cpu, portable/,
    );
    vi.stubEnv('INT_FLASH_BACKEND', '');
    expect(selectBackend('auto', { threads: 3 }).name).toBe('cpu');
  });

  it.each(['abc', '0', '1.5', '300', '1e1', '0x2', ' 2 ', '+2'])(
    'refuses INT_FLASH_THREADS=%s, and does not do without the native backend',
    (text) => {
      vi.stubEnv('INT_FLASH_THREADS', text);
      for (const call of [() => selectBackend(), () => selectBackend('portable'), () => status()]) {
        expect(call).toThrow(
          expect.objectContaining({
            code: 'ERR_ARG_RANGE',
            message: `Expected the environment variable INT_FLASH_THREADS to be an integer from 1 to 256, got the string "${text}"`,
          }),
        );
      }
    },
  );

  it('refuses choices and threads that make no sense', () => {
    expect(() => selectBackend('gpu' as 'cuda')).toThrow(expect.objectContaining({ code: 'ERR_ARG_RANGE' }));
    expect(() => selectBackend('portable', { threads: 0 })).toThrow(expect.objectContaining({ code: 'ERR_ARG_RANGE' }));
    expect(() => selectBackend('portable', { threads: 1.5 })).toThrow(
      expect.objectContaining({ code: 'ERR_ARG_RANGE' }),
    );
    expect(() => selectBackend('portable', { thread: 1 } as object)).toThrow(/known keys/);
  });
});

describe('status', () => {
  it('lists every backend, best first, with reason and hint where it cannot run', () => {
    const { backends } = status();
    expect(backends.map(({ name }) => name)).toEqual(['cuda', 'cpu', 'portable']);
    for (const { available, detail, reason, hint } of backends) {
      expect(detail).not.toBe('');
      if (!available) expect({ reason, hint }).toEqual({ reason: expect.any(String), hint: expect.any(String) });
    }
    expect(backends[2]).toMatchObject({ available: true, isa: 'typescript' });
  });

  it('says what auto chooses and why', () => {
    pretend('cuda', false);
    pretend('cpu', false);
    expect(status()).toMatchObject({
      chosen: 'portable',
      why: 'The faster ones cannot run: cuda: no cuda here; cpu: no cpu here.',
    });
    vi.stubEnv('INT_FLASH_BACKEND', 'portable');
    expect(status()).toMatchObject({ chosen: 'portable', why: 'INT_FLASH_BACKEND=portable asks for it.' });
    vi.stubEnv('INT_FLASH_BACKEND', 'cuda');
    expect(status()).toMatchObject({
      chosen: undefined,
      why: 'INT_FLASH_BACKEND=cuda asks for a backend that cannot run here: no cuda here.',
    });
  });
});
