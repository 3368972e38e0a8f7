import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Finding, round } from './record.js';

const CLI = 'apps/int-flash/dist/cli.js';

/** What people wait for: the page of `demo --web`, and a whole `reproduce --quick`, with the native addon and without. */
export async function commands(): Promise<Finding[]> {
  const page = await untilReady();
  const native = await reproduce({});
  const bare = await reproduce({ INTFLASH_ADDON_PATH: '/no/addon' });
  return [
    { what: 'demo --web until the page can be talked to', value: page, unit: 's', bound: 15 },
    { what: 'reproduce --quick', value: native.seconds, unit: 's', bound: 60 },
    { what: 'reproduce --quick without an addon', value: bare.seconds, unit: 's', bound: 60 },
    { what: 'words of both on stderr', value: native.words + bare.words, unit: 'words', bound: 0 },
    { what: 'reports of both that are not whole', value: native.broken + bare.broken, unit: 'reports', bound: 0 },
  ];
}

/** Through the door that `npm run demo` takes. */
function untilReady(): Promise<number> {
  const started = performance.now();
  const child = spawn(process.execPath, ['tools/run.mjs', 'demo', '--web'], {
    stdio: ['ignore', 'pipe', 'ignore'],
    detached: true,
  });
  return new Promise((resolve, reject) => {
    let text = '';
    let seconds: number | undefined;
    child.stdout.setEncoding('utf8').on('data', async (chunk) => {
      text += chunk;
      const url = /http:\/\/127\.0\.0\.1:\d+/.exec(text)?.[0];
      if (!url || seconds !== undefined) return;
      const { status } = await fetch(`${url}/health`);
      if (status === 200) seconds = round((performance.now() - started) / 1000);
      process.kill(-child.pid!, 'SIGINT'); // as a terminal does, to all of them
    });
    child.on('close', () => (seconds === undefined ? reject(new Error(`not ready: ${text}`)) : resolve(seconds)));
  });
}

async function reproduce(env: NodeJS.ProcessEnv) {
  const out = mkdtempSync(join(tmpdir(), 'int-flash-soak-'));
  const started = performance.now();
  const child = spawn(process.execPath, [CLI, 'reproduce', '--quick', '--out', out], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...env },
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (chunk) => {
    stderr += chunk;
  });
  const code = await new Promise((resolve) => child.on('close', resolve));
  const seconds = round((performance.now() - started) / 1000);
  const isWhole = ['report.md', 'report.html', 'report.json'].every(
    (name) => readFileSync(join(out, name)).length > 1000,
  );
  rmSync(out, { recursive: true });
  const said = stderr.split('\n').filter((line) => line !== '' && !/^[\d.]+ s; report\.md/.test(line));
  return { seconds, words: said.join(' ').split(/\s+/).filter(Boolean).length, broken: Number(code !== 0 || !isWhole) };
}
