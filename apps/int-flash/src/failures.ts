import { IntFlashError } from '@int-flash/ops';
import { CommanderError } from 'commander';
import { onOneLine, type Terminal } from './terminal.js';

export const EXIT = { ok: 0, failed: 1, usage: 2, interrupted: 130, terminated: 143 } as const;

/** The command line cannot be understood; exit code 2. */
export class UsageError extends Error {
  readonly code = 'ERR_USAGE';
  constructor(
    message: string,
    readonly hint?: string,
  ) {
    super(message);
  }
}

/** The work was ended from outside, which is no failure to explain: Ctrl-C, SIGTERM, or nobody reads stdout any more. */
export class Stopped extends Error {
  constructor(readonly exitCode: number) {
    super('stopped');
  }
}

/** What an error of stdout makes of the work: a reader that has gone ends it quietly, text that could not be written is a failure. */
export function fateOfOutput(error: unknown): unknown {
  const { code } = error as NodeJS.ErrnoException;
  return code !== undefined && READER_GONE.includes(code) ? new Stopped(EXIT.ok) : error;
}

const READER_GONE = ['EPIPE', 'EOF', 'ECONNRESET', 'ERR_STREAM_DESTROYED'];

const ALL_COMMANDS = 'Run int-flash --help for all of them; int-flash demo is the one to start with.';

/** Says what went wrong in one line and a hint, and returns the exit code. `INT_FLASH_DEBUG` adds the stack. */
export function reportFailure(error: unknown, terminal: Terminal, env: NodeJS.ProcessEnv): number {
  if (error instanceof Stopped) {
    if (error.exitCode === EXIT.interrupted && terminal.stderr.isTTY) terminal.note(''); // leaves the ^C on its own line
    return error.exitCode;
  }
  if (error instanceof CommanderError && error.exitCode === 0) return EXIT.ok; // --help and --version
  const { code, message, hint, exitCode } = explain(error, env);
  const { red, dim } = terminal.notePaint;
  terminal.note(`${red(code)}: ${oneLine(message)}`);
  if (hint) terminal.note(dim(`hint: ${oneLine(hint)}`));
  if (env.INT_FLASH_DEBUG && error instanceof Error && error.stack) terminal.note(dim(error.stack));
  return exitCode;
}

function explain(
  error: unknown,
  env: NodeJS.ProcessEnv,
): { code: string; message: string; hint?: string | undefined; exitCode: number } {
  if (error instanceof CommanderError) {
    if (error.code === 'commander.help') {
      return { code: 'ERR_USAGE', message: 'Expected a command, got none', hint: ALL_COMMANDS, exitCode: EXIT.usage };
    }
    // `npm run demo --prompt Hi` keeps the option for npm itself, and hands on Hi alone.
    const hint =
      error.code === 'commander.excessArguments' && env.npm_lifecycle_event !== undefined
        ? 'With npm, options go behind --, as in npm run demo -- --prompt "Hello!"'
        : 'Run int-flash --help, or int-flash <command> --help, for what there is.';
    return { code: 'ERR_USAGE', message: error.message.replace(/^error: /, ''), hint, exitCode: EXIT.usage };
  }
  if (error instanceof UsageError) {
    return { code: error.code, message: error.message, hint: error.hint, exitCode: EXIT.usage };
  }
  if (IntFlashError.isInstance(error)) {
    return { code: error.code, message: error.message, hint: error.hint, exitCode: EXIT.failed };
  }
  if (error instanceof Error) {
    const { code } = error as NodeJS.ErrnoException;
    if (typeof code === 'string') {
      return {
        code,
        message: error.message.replace(`${code}: `, ''),
        hint: SYSTEM_HINTS[code],
        exitCode: EXIT.failed,
      };
    }
    const hint = 'This is a fault of int-flash. INT_FLASH_DEBUG=1 shows where it happened.';
    return { code: 'ERR_INTERNAL', message: error.message, hint, exitCode: EXIT.failed };
  }
  return { code: 'ERR_INTERNAL', message: String(error), exitCode: EXIT.failed };
}

/** What to do about errors of the operating system that a wrong argument brings about. */
const SYSTEM_HINTS: Readonly<Record<string, string>> = {
  EADDRINUSE: 'Another program listens there: choose another --port, or 0 for any that is free.',
  EACCES: 'Choose a place that this user may read and write.',
  EISDIR: 'Name a file, not a folder.',
  ENOENT: 'Check the path.',
  ENOSPC: 'Free some space, or choose another place.',
  ENOTDIR: 'Check the path: a part of it is a file.',
  EROFS: 'Choose a place that can be written.',
};

function oneLine(text: string): string {
  return onOneLine(text.trim().replace(/\s*\n\s*/g, ' '));
}
