import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { say } from '../process.mjs';
import { cacheDir } from '../stamp.mjs';

const lock = join(cacheDir, 'running');

/** Two runs in one working tree (say, two terminals) would install and build over each other: the second waits. */
export async function oneAtATime(work) {
  let told = false;
  while (!take()) {
    if (!told) say('waiting for another run in this directory…');
    told = true;
    await sleep(200);
  }
  try {
    await work();
  } finally {
    rmSync(lock, { force: true });
  }
}

function take() {
  mkdirSync(dirname(lock), { recursive: true });
  try {
    writeFileSync(lock, String(process.pid), { flag: 'wx' }); // wx: fails if another run holds it
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
    if (!holderLives()) rmSync(lock, { force: true });
    return false;
  }
}

function holderLives() {
  try {
    const holder = Number(readFileSync(lock, 'utf8'));
    if (holder === 0) return true; // created, not yet written
    process.kill(holder, 0);
    return true;
  } catch (error) {
    return error.code !== 'ESRCH'; // EPERM: alive, another user's; ENOENT: it has just let go, so try again
  }
}
