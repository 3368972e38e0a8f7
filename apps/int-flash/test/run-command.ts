import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The built command; the tests' build step comes before the tests. */
const CLI = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
export const DEMO_MODEL = fileURLToPath(new URL('../../../models/int-flash-demo/', import.meta.url));

export interface CommandResult {
  /** Null when a signal ended the process. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandSettings {
  readonly env?: NodeJS.ProcessEnv;
  readonly stdin?: string;
  /** Called once with the process. */
  readonly onSpawn?: (child: ChildProcess) => void;
  /** Called with all of stdout so far whenever more of it has come. */
  readonly onStdout?: (soFar: string, child: ChildProcess) => void;
}

/**
 * Sends Ctrl-C so many milliseconds after the process began to listen for it: how long Node takes to get there is the machine's
 * affair. Where the system does not tell who listens, it is given ten seconds.
 */
export function interruptAtWork(child: ChildProcess, ms: number): void {
  const since = performance.now();
  const poll = setInterval(() => {
    const listens = catchesInterrupt(child.pid!) ?? performance.now() - since > 10_000;
    if (!listens && child.exitCode === null && child.signalCode === null) return;
    clearInterval(poll);
    setTimeout(() => child.kill('SIGINT'), ms);
  }, 20);
}

/** Whether the process has a handler for SIGINT, as Linux tells: a mask of caught signals, in hexadecimal, the lowest bit signal 1. */
function catchesInterrupt(pid: number): boolean | undefined {
  try {
    const [, mask] = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))!;
    return (BigInt(`0x${mask}`) & 2n) !== 0n;
  } catch {
    return undefined;
  }
}

/** Runs the built command as a user does: a process of its own, pipes instead of a terminal. */
export function runCommand(args: readonly string[], settings: CommandSettings = {}): Promise<CommandResult> {
  const env = { ...process.env, INT_FLASH_MODEL: '', INT_FLASH_DEBUG: '', NO_COLOR: '', ...settings.env };
  delete (env as NodeJS.ProcessEnv).FORCE_COLOR; // vitest sets it for its own output
  const child = spawn(process.execPath, [CLI, ...args], { env });
  settings.onSpawn?.(child);
  const text = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (chunk) => {
    text.stdout += chunk;
    settings.onStdout?.(text.stdout, child);
  });
  child.stderr.setEncoding('utf8').on('data', (chunk) => {
    text.stderr += chunk;
  });
  child.stdin.on('error', () => {}); // a command that does not read its input may end before it is written
  child.stdin.end(settings.stdin ?? '');
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, ...text }));
  });
}
