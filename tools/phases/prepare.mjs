import { buildNative } from '../build-native.mjs';
import { PhaseError, say } from '../process.mjs';
import { buildPackages } from './build-packages.mjs';
import { installDependencies } from './install-dependencies.mjs';
import { oneAtATime } from './one-at-a-time.mjs';

/** Packages with a native half that needs nothing beyond a C++ compiler. */
export const NATIVE_PACKAGES = ['packages/kernels-cpu'];
/** Those that need nvcc and minutes: built by the jobs that build and test everything, not on the way to a demo. */
export const CUDA_PACKAGES = ['packages/kernels-cuda'];

/**
 * Brings the working tree to where a job can run.
 * @param {object} wanted
 * @param {'optional' | 'required'} [wanted.native] `required`: sources that do not compile are an error; a missing
 *   compiler never is, because the portable TypeScript backend serves then
 * @param {'js' | 'js+types'} [wanted.build] what to build of the TypeScript
 * @param {import('../build-native.mjs').CudaTargets} [wanted.cuda] whether, and for which GPUs, CUDA kernels are compiled as well; `quick` where
 *   `native` is required and nothing is said
 */
export async function prepare({ native, build, cuda = native === 'required' ? 'quick' : undefined } = {}) {
  await oneAtATime(async () => {
    await installDependencies();
    if (native) for (const directory of NATIVE_PACKAGES) await prepareNative(directory, native);
    if (cuda) for (const directory of CUDA_PACKAGES) await prepareNative(directory, native, cuda);
    if (build) await buildPackages(build);
  });
}

async function prepareNative(directory, native, cuda) {
  const result = await buildNative(directory, { retryFailed: native === 'required', cuda });
  if (result.state === 'failed' && native === 'required') throw new PhaseError(`${result.log}\n${result.message}`);
  if (result.message) say(result.message);
}
