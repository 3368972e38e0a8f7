import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { ServeSettings } from '../src/serve/serve-settings.js';

/** Of the server, and how its mock engine draws. */
export interface MockSettings extends Partial<ServeSettings> {
  readonly tokenMs?: number;
  readonly tokenCharacters?: number;
}

/** What a mock server holds. */
export interface ServerStats {
  readonly rss: number;
  /** Of JavaScript, buffers included. */
  readonly heapBytes: number;
  readonly cpuMs: number;
  readonly descriptors: number;
  readonly handles: number;
  readonly underWay: number;
  readonly running: number;
  readonly failures: number;
  /** Sequences that were ever begun. */
  readonly begun: number;
  readonly sequences: number;
  readonly kvCacheBytes: number;
}

export interface MockServer {
  readonly port: number;
  stats(): Promise<ServerStats>;
  /** The same, with what is garbage collected first: what is left is kept by something. */
  collectedStats(): Promise<ServerStats>;
  stop(): Promise<void>;
}

/** @param program the built `mock-server.ts`; without, the one beside the soak job's own. */
export async function startMockServer(
  settings: MockSettings,
  program = fileURLToPath(new URL('mock-server.js', import.meta.url)),
): Promise<MockServer> {
  const child = fork(program, [JSON.stringify(settings)], { execArgv: ['--expose-gc'] });
  const { port } = await new Promise<{ port: number }>((resolve, reject) => {
    child.once('message', resolve as (message: unknown) => void);
    child.once('exit', (code) => reject(new Error(`the server ended with ${code}`)));
  });
  const ask = async (what: 'stats' | 'collected stats') => {
    child.send(what);
    return (await once(child, 'message'))[0] as ServerStats;
  };
  return {
    port,
    stats: () => ask('stats'),
    collectedStats: () => ask('collected stats'),
    stop: async () => {
      const ended = once(child, 'exit');
      child.disconnect();
      await ended;
    },
  };
}

export interface CommandServer {
  readonly port: number;
  readonly child: ChildProcess;
  stop(): Promise<void>;
}

interface CommandSettings {
  readonly env?: NodeJS.ProcessEnv;
  /** Told all that it writes; without, what it writes to stderr goes to this process's. */
  readonly onOutput?: (text: string) => void;
}

/** `int-flash serve` with the demo model. */
export async function startCommandServer(
  args: readonly string[] = [],
  { env = {}, onOutput }: CommandSettings = {},
): Promise<CommandServer> {
  const cli = 'apps/int-flash/dist/cli.js';
  const command = [cli, 'serve', 'models/int-flash-demo', '--port', '0', ...(onOutput ? [] : ['--quiet']), ...args];
  const child = spawn(process.execPath, command, {
    stdio: ['ignore', 'pipe', onOutput ? 'pipe' : 'inherit'],
    env: { ...process.env, ...env },
  });
  child.stderr?.setEncoding('utf8').on('data', onOutput!);
  const port = await new Promise<number>((resolve, reject) => {
    let text = '';
    child.stdout!.setEncoding('utf8').on('data', (chunk) => {
      text += chunk;
      onOutput?.(chunk);
      const found = /http:\/\/127\.0\.0\.1:(\d+)/.exec(text);
      if (found) resolve(Number(found[1]));
    });
    child.on('exit', (code) => reject(new Error(`the server ended with ${code}`)));
  });
  return {
    port,
    child,
    stop: async () => {
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      await ended;
    },
  };
}
