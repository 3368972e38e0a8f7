import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const PROCESS = fileURLToPath(new URL('../../../tools/process.mjs', import.meta.url));

/** A job as `npm run demo -- --web` starts one: it waits for the command, whose pid is told. */
const JOB = `
import { runNode } from ${JSON.stringify(PROCESS)};
const command = 'process.on("SIGTERM", () => process.exit(7)); console.log(process.pid); setInterval(() => {}, 1000);';
process.exitCode = (await runNode(['-e', command], { inherit: true })).status;
`;

describe('a job of npm run', () => {
  // Windows has no such signals.
  it.runIf(process.platform !== 'win32')(
    'hands SIGTERM to its command and waits for it, leaving nothing behind',
    async () => {
      const job = spawn(process.execPath, ['--input-type=module', '-e', JOB]);
      const pid = await new Promise<number>((resolve) => job.stdout.once('data', (text) => resolve(Number(text))));
      job.kill('SIGTERM');
      const code = await new Promise((resolve) => job.on('close', resolve));
      expect(code).toBe(7);
      expect(() => process.kill(pid, 0)).toThrowError(expect.objectContaining({ code: 'ESRCH' }));
    },
  );
});
