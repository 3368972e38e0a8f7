import { IntFlashError } from '@int-flash/ops';

/**
 * Packs codes two a byte, low nibble first, two's complement. An odd count leaves the last high nibble 0.
 *
 * @param codes Integers in [-8, 7]; quantizers produce [-7, 7].
 * @throws {IntFlashError} `ERR_ARG_RANGE` naming the element.
 */
export function packInt4(codes: Int8Array): Uint8Array {
  const bytes = new Uint8Array((codes.length + 1) >> 1);
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i]!;
    if (code < -8 || code > 7)
      throw new IntFlashError('ERR_ARG_RANGE', `Expected INT4 codes in [-8, 7], got ${code} at element ${i}`);
    bytes[i >> 1]! |= (code & 15) << ((i & 1) * 4);
  }
  return bytes;
}

/**
 * Unpacks `count` codes.
 *
 * @throws {IntFlashError} `ERR_SHAPE` when `packed` does not hold exactly ceil(count / 2) bytes.
 */
export function unpackInt4(packed: Uint8Array, count: number = packed.length * 2): Int8Array {
  checkPacked(packed, count);
  const codes = new Int8Array(count);
  for (let i = 0; i < count; i++) codes[i] = (packed[i >> 1]! << (28 - (i & 1) * 4)) >> 28; // the shift back copies the sign
  return codes;
}

/** @throws {IntFlashError} as {@link unpackInt4}. */
export function checkPacked(packed: Uint8Array, count: number): void {
  if (!Number.isInteger(count) || count < 0 || packed.length !== (count + 1) >> 1) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected ceil(count / 2) packed bytes, got ${packed.length} for count ${count}`,
    );
  }
}
