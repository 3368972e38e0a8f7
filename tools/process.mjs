import { spawn } from 'node:child_process';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The repository root; every command runs there. */
export const root = fileURLToPath(new URL('..', import.meta.url));

/** Says why a phase could not finish, in words for the person at the terminal; run.mjs prints it without a stack. */
export class PhaseError extends Error {
  name = 'PhaseError';
}

const PASSED_ON = ['SIGTERM', 'SIGHUP'];
/** What shells say of a process that a signal ended. */
const STATUS = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 };

/** One short line on stderr, so that a slow phase is not silence. */
export function say(line) {
  process.stderr.write(`${line}\n`);
}

/**
 * Runs a command and waits. Its output is captured, to be shown only if it fails, unless `inherit` hands it the terminal.
 * @returns {Promise<{ status: number, output: string }>}
 */
export function run(file, args, { inherit = false, env = {}, cwd = root, shell = false } = {}) {
  const child = spawn(file, args, {
    cwd,
    shell,
    stdio: inherit ? 'inherit' : ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      PATH: `${join(root, 'node_modules', '.bin')}${delimiter}${process.env.PATH ?? ''}`, // turbo looks for pnpm there
      TURBO_TELEMETRY_DISABLED: '1',
      TURBO_NO_UPDATE_NOTIFIER: '1',
      DO_NOT_TRACK: '1',
      ...env,
    },
  });
  const chunks = [];
  child.stdout?.on('data', (chunk) => chunks.push(chunk));
  child.stderr?.on('data', (chunk) => chunks.push(chunk));
  // Ctrl-C reaches the child too; waiting for it lets it restore the terminal and choose the exit status. What else ends this process
  // is sent to it alone, and would leave the child behind.
  const wait = () => {};
  const pass = (signal) => child.kill(signal);
  process.on('SIGINT', wait);
  for (const signal of PASSED_ON) process.on(signal, pass);
  return new Promise((resolve) => {
    const finish = (status, extra = '') => {
      process.off('SIGINT', wait);
      for (const signal of PASSED_ON) process.off(signal, pass);
      resolve({ status, output: Buffer.concat(chunks).toString('utf8') + extra });
    };
    child.on('error', (error) => finish(127, `${error.message}\n`));
    child.on('close', (code, signal) => finish(code ?? STATUS[signal] ?? 1));
  });
}

/** Runs Node on a script. */
export function runNode(args, options) {
  return run(process.execPath, args, options);
}

/** Runs a dependency's own entry file with this Node: no shell and no .cmd shims, so it is the same on every system. */
export function runTool(entry, args, options) {
  return runNode([join('node_modules', entry), ...args], options);
}
