import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';

const packages = new URL('../../', import.meta.url);
/** Spelled apart: these programs are a user's, and import the package by its name; this file does not. */
const SELF = ['@int-flash', 'attention'].join('/');
const NAMES = ['ops', 'quant', 'reference', 'kernels-cpu', 'attention'];

/** Runs a program as a user would, on the built packages that this one depends on (and on itself). */
function runProgram(program: string, type: 'module' | 'commonjs') {
  return spawnSync(process.execPath, [`--input-type=${type}`], {
    input: program,
    cwd: fileURLToPath(new URL('attention/', packages)),
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1', FORCE_COLOR: '0' },
  });
}

beforeAll(() => {
  for (const name of NAMES) {
    const built = existsSync(new URL(`${name}/dist/index.js`, packages));
    expect(built, `packages/${name} is built (npm run build)`).toBe(true);
  }
});

const USE = `
  const query = tensor('float32', new Float32Array(16).fill(1), [1, 1, 2, 8]);
  const sync = intFlashAttentionSync({ query, key: query, value: query });
  let code;
  try { intFlashAttentionSync({ query }, {}); } catch (error) { code = error instanceof IntFlashError && error.code; }
  intFlashAttention({ query, key: query, value: query }, { isCausal: true }).then(({ out }) =>
    console.log(JSON.stringify({ sync: sync.out.dims, first: Math.round(out.data[0]), code, chosen: typeof status().chosen })));`;
const ANSWER = { sync: [1, 1, 2, 8], first: 1, code: 'ERR_ARG_TYPE', chosen: 'string' };
const TAKE = 'intFlashAttention, intFlashAttentionSync, IntFlashError, status, tensor';

describe('the built package', () => {
  it.each([
    ['module', `import { ${TAKE} } from '${SELF}';${USE}`],
    ['commonjs', `const { ${TAKE} } = require('${SELF}');${USE}`],
  ] as const)('runs attention as %s, writes nothing else, and ends', (type, program) => {
    const { status, stdout, stderr } = runProgram(program, type);
    expect(stderr).toBe('');
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toEqual(ANSWER);
  });

  it('of both kinds in one process recognises the other’s errors', () => {
    const program = `
      import { createRequire } from 'node:module';
      import { IntFlashError } from '${SELF}';
      const { intFlashAttentionSync } = createRequire(process.cwd() + '/x.js')('${SELF}');
      try { intFlashAttentionSync(null); } catch (error) { console.log(error instanceof IntFlashError, error.code); }`;
    expect(runProgram(program, 'module').stdout).toBe('true ERR_ARG_TYPE\n');
  });

  it('with no backend but portable still chooses one, and a named one still throws', () => {
    const program = `
      import { selectBackend, status } from '${SELF}';
      const { backends, chosen } = status();
      console.log(chosen === backends.find(({ available }) => available).name);
      for (const { name, available } of backends) {
        try { console.log(selectBackend(name).name === name, available); }
        catch (error) { console.log(error.code === 'ERR_UNSUPPORTED', !available); }
      }`;
    expect(runProgram(program, 'module').stdout.trim().split(/\s/)).toEqual(new Array(7).fill('true'));
  });
});

/** The example of a README and what it says it prints. */
function readExamples(name: string) {
  const text = readFileSync(new URL(`${name}/README.md`, packages), 'utf8');
  return [...text.matchAll(/```js\n(.*?)```\n\n```text\n(.*?)```/gs)].map(([, program, prints]) => ({
    name,
    program,
    prints,
  }));
}

describe('README examples', () => {
  const examples = NAMES.flatMap(readExamples);

  it('there is one in every package', () => {
    expect(new Set(examples.map(({ name }) => name))).toEqual(new Set(NAMES));
  });

  it.each(examples)('$name prints what it says', ({ program, prints }) => {
    const { status, stdout, stderr } = runProgram(program!, 'module');
    expect(stderr).toBe('');
    expect(stdout).toBe(prints);
    expect(status).toBe(0);
  });
});
