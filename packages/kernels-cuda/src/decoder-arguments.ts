import {
  checkInteger,
  type DecoderPart,
  type DrawPart,
  type DrawRules,
  describe,
  IntFlashError,
  type LogitsPart,
} from '@int-flash/ops';

/** In the order in which native/decoder_binding.cc reads them. */
const RULES = ['temperature', 'topK', 'topP', 'minP', 'uniform', 'vocabulary'] as const;

/** Ids and the ranges of rules are judged by the addon, which reads each of them once anyway. */
export function expectParts(parts: readonly DecoderPart[]): void {
  expectList(parts, 'parts');
  if (parts.length === 0) throw new IntFlashError('ERR_SHAPE', 'Expected parts of one sequence or more, got none');
  for (const part of parts) {
    expectObject(part, 'a part');
    expectTokens(part.ids);
  }
}

export function expectTokens(ids: Int32Array): void {
  if (!(ids instanceof Int32Array))
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ids to be an Int32Array, got ${describe(ids)}`);
  if (ids.length === 0) throw new IntFlashError('ERR_SHAPE', 'Expected ids to hold at least one token, got none');
}

/** @returns of how many of the part's last tokens */
export function expectWanted({ ids, wanted }: LogitsPart): number {
  return checkInteger(wanted, 'wanted', 1, 1, ids.length);
}

export function expectLogits(logits: Float32Array, rows: number, vocabSize: number): void {
  if (!(logits instanceof Float32Array))
    throw new IntFlashError('ERR_ARG_TYPE', `Expected logits to be a Float32Array, got ${describe(logits)}`);
  if (logits.length !== rows * vocabSize) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected logits of ${rows} x ${vocabSize} elements, got ${logits.length} elements`,
    );
  }
}

/** @returns the numbers of one token's rules behind each other */
export function expectDraw({ ids, draw }: DrawPart): Float64Array {
  expectList(draw, 'draw');
  if (draw.length < 1 || draw.length > ids.length) {
    throw new IntFlashError(
      'ERR_ARG_RANGE',
      `Expected draw to hold rules for 1 to ${ids.length} of the part's tokens, got ${draw.length}`,
    );
  }
  return Float64Array.from(draw.flatMap(numbersOf));
}

export function expectList(value: readonly unknown[], name: string): void {
  if (!Array.isArray(value))
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be an array, got ${describe(value)}`);
}

function numbersOf(rules: DrawRules): number[] {
  expectObject(rules, 'rules of draw');
  return RULES.map((name) => {
    const value = rules[name];
    if (typeof value !== 'number')
      throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} of draw to be a number, got ${describe(value)}`);
    return value;
  });
}

function expectObject(value: object, name: string): void {
  if (typeof value !== 'object' || value === null)
    throw new IntFlashError('ERR_ARG_TYPE', `Expected ${name} to be an object, got ${describe(value)}`);
}
