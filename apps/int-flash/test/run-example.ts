import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../../', import.meta.url));

export function blocksOf(markdown: string, language: string): string[] {
  return [...markdown.matchAll(new RegExp(`^\`\`\`${language}\n(.+?)^\`\`\``, 'gms'))].map(([, block]) => block!);
}

/** Runs a program of a document on the built packages, as it stands. */
export function runExample(program: string) {
  // Bare imports are looked up from the working directory, and the root has none of the packages: so from here, with the model's full path.
  const placed = program.replaceAll("'models/", `'${root.replaceAll('\\', '/')}models/`);
  return spawnSync(process.execPath, ['--input-type=module'], {
    cwd: fileURLToPath(new URL('../', import.meta.url)),
    input: placed,
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '' },
  });
}
