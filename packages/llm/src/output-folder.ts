import { chmod, lstat, mkdir, mkdtemp, readdir, realpath, rename, rm, rmdir, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve, sep } from 'node:path';
import { IntFlashError } from '@int-flash/ops';
import { quote } from './json-text.js';

export interface OutputRules {
  /** A folder that is read meanwhile, and so neither is replaced nor lies in what is. */
  readonly input: string;
  /** Whether a folder that holds files may be replaced. */
  readonly overwrite: boolean;
  /** Whether a file by that name may go with a folder that is replaced. */
  readonly isReplaceable: (name: string) => boolean;
  readonly signal: AbortSignal | undefined;
}

/** Makes, fills or ends one file of the folder: what the system says against it is an argument error. */
export type WriteFileOf = <T>(name: string, write: () => Promise<T>) => Promise<T>;

/** Short, so that a folder's own name may be as long as there is. */
const TEMPORARY = '.int-flash-';
const UNTOUCHED = 'one that nobody else writes meanwhile';

/**
 * Writes a folder that appears as a whole or not at all: `write` fills one beside it, which is renamed.
 *
 * @throws {IntFlashError} `ERR_ARG_RANGE`, with the system's error as its cause; and what `write` throws.
 */
export async function writeOutputFolder<T>(
  folder: string,
  { input, overwrite, isReplaceable, signal }: OutputRules,
  write: (folder: string, writeFileOf: WriteFileOf) => Promise<T>,
): Promise<T> {
  const target = await realTarget(folder);
  if (`${await realpath(input)}${sep}`.startsWith(target.endsWith(sep) ? target : `${target}${sep}`))
    throw new IntFlashError(
      'ERR_ARG_RANGE',
      'Expected another output folder than the input folder, and none that it lies in',
    );
  const isFull = await holdsFiles(target);
  if (isFull && !overwrite) {
    throw new IntFlashError(
      'ERR_ARG_RANGE',
      'Expected an output folder that is absent or empty, got one that holds files',
      { hint: 'Name another folder, or say that it may be overwritten (overwrite, --overwrite).' },
    );
  }
  if (isFull) await placing(UNTOUCHED, () => expectReplaceable(target, isReplaceable));
  const parent = dirname(target);
  const made: string[] = [];
  let temporary: string | undefined;
  try {
    temporary = await placing('one that can be made', async () => {
      await makeFolder(parent, made);
      return mkdtemp(join(parent, TEMPORARY));
    });
    const written = temporary;
    const result = await write(written, (name, place) =>
      expectSystem(`${quote(name)} to be written into ${JSON.stringify(folder)}`, place),
    );
    await placing('one that can be made', () => chmod(written, 0o777 & ~process.umask())); // mkdtemp lets only its user in
    signal?.throwIfAborted();
    await placing(UNTOUCHED, () => replaceFolder(written, target, isFull));
    return result;
  } catch (error) {
    if (temporary !== undefined) await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    for (const folder of made.reverse()) await rmdir(folder).catch(() => undefined); // others may have put something in
    throw error;
  }
}

function placing<T>(expected: string, place: () => Promise<T>): Promise<T> {
  return expectSystem(`the output folder to be ${expected}`, place);
}

/** What the system says against a place is an argument error. */
async function expectSystem<T>(expected: string, place: () => Promise<T>): Promise<T> {
  try {
    return await place();
  } catch (cause) {
    if (IntFlashError.isInstance(cause)) throw cause;
    const reason = (cause as NodeJS.ErrnoException).code;
    const isFull = reason === 'ENOSPC' || reason === 'EDQUOT';
    throw new IntFlashError('ERR_ARG_RANGE', `Expected ${expected}, got ${reason ?? 'an error'}`, {
      cause,
      hint: isFull ? 'Free some space, or name another folder.' : 'Name another folder.',
    });
  }
}

/**
 * `mkdir` with `recursive` never comes back where the system says that a folder in a present one cannot be, as below /proc.
 *
 * @param made Is told each folder that was created.
 */
async function makeFolder(folder: string, made: string[]): Promise<void> {
  const there = await stat(folder).catch(() => undefined);
  if (there?.isDirectory()) return;
  if (dirname(folder) !== folder) await makeFolder(dirname(folder), made);
  try {
    await mkdir(folder);
    made.push(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error; // somebody else made it meanwhile
  }
}

/** Where a folder lies that may not be there yet, whatever links lead to it. */
async function realTarget(folder: string): Promise<string> {
  const target = resolve(folder);
  try {
    return await realpath(target);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || dirname(target) === target) return target;
    return join(await realTarget(dirname(target)), basename(target));
  }
}

/** Replacing a folder takes everything in it away. */
async function expectReplaceable(folder: string, isReplaceable: (name: string) => boolean): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (isReplaceable(entry.name) && !entry.isDirectory()) continue;
    throw new IntFlashError(
      'ERR_ARG_RANGE',
      `Expected an output folder that holds a model and nothing else, got one with ${JSON.stringify(entry.name.slice(0, 80))}`,
      { hint: 'Name another folder.' },
    );
  }
}

async function holdsFiles(folder: string): Promise<boolean> {
  try {
    return (await readdir(folder)).length > 0;
  } catch (cause) {
    const isAbsent = (cause as NodeJS.ErrnoException).code === 'ENOENT' && !(await isLink(folder)); // one that leads nowhere
    if (isAbsent) return false;
    throw new IntFlashError('ERR_ARG_RANGE', 'Expected the output to be a folder, got something else', { cause });
  }
}

async function isLink(path: string): Promise<boolean> {
  const facts = await lstat(path).catch(() => undefined);
  return facts?.isSymbolicLink() === true;
}

/** A folder that is replaced is kept under another name until the new one stands in its place. */
async function replaceFolder(from: string, to: string, isFull: boolean): Promise<void> {
  if (!isFull) {
    await rmdir(to).catch(() => undefined); // absent, or empty and in the way on some systems
    await rename(from, to);
    return;
  }
  const old = `${from}-old`;
  await rename(to, old);
  try {
    await rename(from, to);
  } catch (error) {
    await rename(old, to).catch(async () => {
      if (await holdsFiles(to)) await rm(old, { recursive: true, force: true }); // another model that replaces it
    });
    throw error;
  }
  await rm(old, { recursive: true, force: true });
}
