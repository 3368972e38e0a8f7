import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const CLI = fileURLToPath(new URL('../../int-flash/dist/cli.js', import.meta.url));

/** `int-flash serve` with the shipped model, as a user starts it: a process of its own, on a free port. */
export async function serveShippedModel(): Promise<{ url: string; stop: () => Promise<void> }> {
  if (!existsSync(CLI)) throw new Error(`Expected the built command at ${CLI}: run npm run build first`);
  const env: NodeJS.ProcessEnv = { ...process.env, INT_FLASH_MODEL: '' };
  delete env.INT_FLASH_API_KEY;
  const child = spawn(process.execPath, [CLI, 'serve', '--port', '0'], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  const url = await new Promise<string>((resolve, reject) => {
    const listen = (chunk: Buffer) => {
      said += chunk;
      const [, address] = /(http:\/\/127\.0\.0\.1:\d+)\s/.exec(said) ?? [];
      if (address) resolve(`${address}/`);
    };
    child.stdout.on('data', listen);
    child.stderr.on('data', listen);
    child.on('close', (code) => reject(new Error(`serve ended with ${code}: ${said}`)));
  });
  const stop = async () => {
    const closed = once(child, 'close');
    child.kill('SIGTERM');
    await closed;
  };
  return { url, stop };
}
