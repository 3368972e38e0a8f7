import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Finding } from './record.js';

const RUNS = 100;
const AT_ONCE = 4;
const CLI = 'apps/int-flash/dist/cli.js';
const GENERATE = ['generate', 'Tell me a story.', '--quiet', '--max-tokens', '900', '--model', 'models/int-flash-demo'];

interface Ending {
  readonly how: string;
  readonly code: number;
  /** What Node itself writes for an error that nobody caught. */
  readonly mayWrite?: RegExp;
  readonly start: () => Promise<{ readonly code: number | null; readonly stderr: string }>;
}

const ENDINGS: readonly Ending[] = [
  { how: 'interrupted commands', code: 130, start: () => ended([CLI, ...GENERATE], { interrupt: true }) },
  { how: 'programs that call process.exit(7) at work', code: 7, start: () => program('exit') },
  { how: 'programs that end by themselves', code: 0, start: () => program('natural') },
  {
    how: 'programs that throw at work',
    code: 1,
    mayWrite: /^[^\n]*\n[^\n]*\n[^\n]*\n\s*\^\s*on purpose\n\(Use `node --trace-uncaught[^\n]*\n+Node\.js v[\d.]+\n$/,
    start: () => program('throw'),
  },
];

/** N10: processes that end while the model computes; the exit code is right and nothing is said. */
export async function exits(): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const { how, code, mayWrite = /^$/, start } of ENDINGS) {
    let left = RUNS;
    let wrongCode = 0;
    let noisy = 0;
    const work = async () => {
      while (left-- > 0) {
        const end = await start();
        if (end.code !== code) wrongCode++;
        if (!mayWrite.test(end.stderr)) noisy++;
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    findings.push(
      { what: `${RUNS} ${how}: another exit code than ${code}`, value: wrongCode, unit: 'runs', bound: 0 },
      { what: `${RUNS} ${how}: wrote to stderr`, value: noisy, unit: 'runs', bound: 0 },
    );
  }
  return findings;
}

function program(how: string) {
  const path = fileURLToPath(new URL('exiting.js', import.meta.url));
  return ended([path, how, String(Math.round(Math.random() * 60))], { interrupt: false });
}

function ended(args: readonly string[], { interrupt }: { readonly interrupt: boolean }) {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let stderr = '';
  if (interrupt) child.stdout.once('data', () => setTimeout(() => child.kill('SIGINT'), Math.random() * 100));
  child.stdout.resume();
  child.stderr.setEncoding('utf8').on('data', (chunk) => {
    stderr += chunk;
  });
  return new Promise<{ code: number | null; stderr: string }>((resolve) =>
    child.on('close', (code) => resolve({ code, stderr })),
  );
}
