import { type HostArrayKind, hostArray } from '@int-flash/ops';

/** Zeros for an answer of these dims. @throws {IntFlashError} `ERR_OOM`. */
export function answerArray<T>(kind: HostArrayKind<T>, dims: readonly number[], what: string): T {
  return hostArray(
    kind,
    dims.reduce((product, dim) => product * dim, 1),
    what,
  );
}
