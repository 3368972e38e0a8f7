import type { CausalAlignment, MaskOperand } from './attention-plan.js';
import { describe } from './describe.js';
import { IntFlashError } from './int-flash-error.js';
import { checkBoolean, checkChoice, checkInteger } from './option-check.js';
import type { TensorJudge } from './tensor.js';

/** Folds isCausal and windowSize into one band around the diagonal. */
export function judgeWindow(given: Record<string, unknown>) {
  const isCausal = checkBoolean(given.isCausal, 'isCausal', false);
  const diagonal: CausalAlignment = checkChoice(
    given.causalAlignment,
    'causalAlignment',
    ['top-left', 'bottom-right'] as const,
    'top-left',
  );
  let windowLeft = Infinity;
  let windowRight = Infinity;
  const window = given.windowSize;
  if (window !== undefined) {
    if (!Array.isArray(window) || window.length !== 2) {
      throw new IntFlashError('ERR_ARG_TYPE', `Expected windowSize to be [left, right], got ${describe(window)}`);
    }
    const [left, right] = Array.from(window, (side: unknown, i) =>
      checkInteger(side ?? null, `windowSize[${i}]`, -1, -1, 2 ** 31 - 1),
    );
    if (left !== -1) windowLeft = left!; // -1 = unlimited, as in flash-attn
    if (right !== -1) windowRight = right!;
  }
  if (isCausal) windowRight = 0;
  return { windowLeft, windowRight, diagonal };
}

/** Checks that the mask broadcasts to `target`, [batch, heads, queries, keys], and holds nothing but finite numbers and -Infinity. */
export function judgeMask(
  given: Record<string, unknown>,
  target: readonly number[],
  varlen: boolean,
  judge: TensorJudge,
): MaskOperand | undefined {
  if (given.attnMask === undefined) return undefined;
  if (given.isCausal === true)
    throw new IntFlashError('ERR_ARG_RANGE', 'Expected either attnMask or isCausal, got both', {
      hint: 'Write the causal triangle into the mask.',
    });
  if (varlen) throw new IntFlashError('ERR_UNSUPPORTED', 'Expected no attnMask with cuSeqlens, got one');
  const mask = judge(given.attnMask, 'attnMask', ['bool', 'float32']);
  const lead = target.length - mask.dims.length;
  const fits =
    mask.dims.length >= 2 && lead >= 0 && mask.dims.every((dim, axis) => dim === 1 || dim === target[axis + lead]);
  if (!fits)
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected attnMask to broadcast to [${target.join(', ')}], got [${mask.dims.join(', ')}]`,
    );
  if (mask.type === 'float32') {
    const data = mask.data as Float32Array;
    const bad = data.findIndex((entry) => Number.isNaN(entry) || entry === Infinity);
    if (bad >= 0)
      throw new IntFlashError(
        'ERR_NONFINITE',
        `Expected attnMask to hold finite numbers or -Infinity, got ${data[bad]} at element ${bad}`,
      );
  }
  const stride = (axis: number) => (axis < lead || mask.dims[axis - lead] === 1 ? 0 : mask.strides[axis - lead]!);
  return {
    type: mask.type as 'bool' | 'float32',
    data: mask.data as Uint8Array | Float32Array,
    strides: { batch: stride(0), head: stride(1), query: stride(2), key: stride(3) },
  };
}
