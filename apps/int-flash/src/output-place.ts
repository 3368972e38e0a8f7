import { constants } from 'node:fs';
import { access, mkdir, rmdir, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { UsageError } from './failures.js';

/**
 * Makes sure, before minutes of work, that files can be written into a folder. Creates it where it is absent.
 *
 * @param made Is told each folder that was created, for {@link removeEmpty} if nothing comes of the work.
 * @throws the system's error, or {@link UsageError} where something else has that name.
 */
export async function claimFolder(folder: string, made: string[]): Promise<void> {
  await makeFolder(folder, made);
  await access(folder, constants.W_OK);
}

/** The same of one file, which is not created yet. */
export async function claimFile(file: string, made: string[]): Promise<void> {
  const there = await stat(file).catch(() => undefined);
  if (there?.isDirectory()) throw new UsageError(`Expected a file, got a folder: ${file}`);
  if (there) await access(file, constants.W_OK);
  else await claimFolder(dirname(resolve(file)), made);
}

/** Removes folders that were made in this order, but none that holds anything. */
export async function removeEmpty(made: readonly string[]): Promise<void> {
  for (const folder of [...made].reverse()) await rmdir(folder).catch(() => {});
}

/** `mkdir` with `recursive` never comes back where the system says that a folder in a present one cannot be, as below /proc. */
async function makeFolder(folder: string, made: string[]): Promise<void> {
  const there = await stat(folder).catch(() => undefined);
  if (there?.isDirectory()) return;
  if (there) throw new UsageError(`Expected a folder, got a file: ${folder}`);
  const parent = dirname(folder);
  if (parent !== folder) await makeFolder(parent, made);
  try {
    await mkdir(folder);
    made.push(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error; // somebody else made it meanwhile
  }
}
