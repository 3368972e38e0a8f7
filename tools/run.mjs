#!/usr/bin/env node
// The door behind every `npm run`: from a machine with nothing but Node and npm to a finished job.
//   node version → dependencies → native addon → TypeScript build → the job
// Each phase leaves a stamp and costs milliseconds when nothing it depends on has changed. Zero dependencies: it runs first.
import { readFileSync } from 'node:fs';
import { nodeVersionProblem } from './phases/node-version.mjs';

const JOBS = {
  demo: (args) => command('demo', args),
  bench: async (args) => {
    const { prepare } = await import('./phases/prepare.mjs');
    const { runBenchmarks } = await import('./jobs/bench.mjs');
    await prepare({ native: 'optional', build: 'js' });
    return runBenchmarks(args);
  },
  'bench:gpu': async (args) => {
    const { prepare } = await import('./phases/prepare.mjs');
    const { runNode } = await import('./process.mjs');
    await prepare({ native: 'required', build: 'js' });
    return (await runNode(['packages/kernels-cuda/bench/bench-gpu.mjs', ...args], { inherit: true })).status;
  },
  soak: async (args) => {
    const { prepare } = await import('./phases/prepare.mjs');
    const { soak } = await import('./jobs/soak.mjs');
    await prepare({ native: 'optional', build: 'js' });
    return soak(args);
  },
  release: async (args) => {
    const { release } = await import('./jobs/release.mjs');
    return release(args);
  },
  build: async () => {
    const { prepare } = await import('./phases/prepare.mjs');
    await prepare({ native: 'required', build: 'js+types', cuda: 'every architecture' });
  },
  test: async (args) => {
    const { testEverything, testSome } = await import('./jobs/test.mjs');
    return args.length > 0 ? testSome('unit', args) : testEverything();
  },
  'test:gpu': async (args) => {
    const { testSome } = await import('./jobs/test.mjs');
    return testSome('gpu', args);
  },
  verify: async () => {
    const { testEverything } = await import('./jobs/test.mjs');
    return testEverything({ cuda: 'every architecture' });
  },
  lint: () => checks(['lint', 'layers', 'unused']),
  typecheck: () => checks(['typecheck']),
  'check:docs': () => checks(['docs']),
  site: () => checks(['site']),
  format: async (args) => {
    const { prepare } = await import('./phases/prepare.mjs');
    const { runTool } = await import('./process.mjs');
    await prepare();
    return (
      await runTool('@biomejs/biome/bin/biome', ['check', '--write', ...(args.length > 0 ? args : ['.'])], {
        inherit: true,
      })
    ).status;
  },
};

/** Runs one subcommand of the int-flash command; where the native addon cannot be built, the portable backend serves. Who asks for a GPU has its kernels compiled. */
async function command(name, args) {
  const { prepare } = await import('./phases/prepare.mjs');
  const { runNode } = await import('./process.mjs');
  const asksForCuda = args.some(
    (arg, i) => arg === '--backend=cuda' || (arg === 'cuda' && args[i - 1] === '--backend'),
  );
  await prepare({ native: 'optional', build: 'js', ...(asksForCuda && { cuda: 'this machine' }) });
  return (await runNode(['apps/int-flash/dist/cli.js', name, ...args], { inherit: true })).status;
}

async function checks(names) {
  const { prepare } = await import('./phases/prepare.mjs');
  const { runChecks } = await import('./jobs/test.mjs');
  await prepare();
  const { failed } = await runChecks(names);
  return failed > 0 ? 1 : 0;
}

const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
const [jobName, ...jobArgs] = process.argv.slice(2);
const problem = nodeVersionProblem(manifest.engines.node, process.versions.node);

if (problem) {
  console.error(problem);
  process.exitCode = 1;
} else if (!Object.hasOwn(JOBS, jobName ?? '')) {
  console.error(`Expected a job, one of ${Object.keys(JOBS).join(', ')}; got ${jobName ?? 'none'}`);
  process.exitCode = 2;
} else {
  try {
    process.exitCode = (await JOBS[jobName](jobArgs)) ?? 0;
  } catch (error) {
    console.error(error?.name === 'PhaseError' ? error.message : error);
    process.exitCode = 1;
  }
}
