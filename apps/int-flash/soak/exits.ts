import { spawn } from 'node:child_process';
import type { Finding } from './record.js';

const RUNS = 100;
const AT_ONCE = 4;
const CLI = 'apps/int-flash/dist/cli.js';
const PROMPT = ['generate', 'Tell me a story.', '--quiet', '--max-tokens', '900', '--model', 'models/int-flash-demo'];

/** N10: SIGINT while the model computes; the exit code is right and nothing is said. */
export async function exits(): Promise<Finding[]> {
  let left = RUNS;
  let wrongCode = 0;
  let noisy = 0;
  const work = async () => {
    while (left-- > 0) {
      const { code, stderr } = await interrupted();
      if (code !== 130) wrongCode++;
      if (stderr !== '') noisy++;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return [
    { what: `interrupted runs of ${RUNS} with another exit code than 130`, value: wrongCode, unit: 'runs', bound: 0 },
    { what: 'interrupted runs that wrote to stderr', value: noisy, unit: 'runs', bound: 0 },
  ];
}

function interrupted(): Promise<{ code: number | null; stderr: string }> {
  const child = spawn(process.execPath, [CLI, ...PROMPT], { stdio: ['ignore', 'pipe', 'pipe'] });
  let stderr = '';
  child.stdout.once('data', () => setTimeout(() => child.kill('SIGINT'), Math.random() * 100));
  child.stdout.resume();
  child.stderr.setEncoding('utf8').on('data', (chunk) => {
    stderr += chunk;
  });
  return new Promise((resolve) => child.on('close', (code) => resolve({ code, stderr })));
}
