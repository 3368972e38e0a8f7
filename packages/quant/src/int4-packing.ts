import { hostArray, IntFlashError, wrongType } from '@int-flash/ops';
import { int8Array, uint8Array } from './argument-check.js';

/**
 * Packs codes two a byte, low nibble first, two's complement. An odd count leaves the last high nibble 0.
 *
 * @param codes Integers in [-8, 7]; quantizers produce [-7, 7].
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE` naming the element, `ERR_BUFFER_*`, `ERR_OOM`.
 */
export function packInt4(codes: Int8Array): Uint8Array {
  const given = int8Array(codes, 'codes');
  const { length } = given;
  const bytes = hostArray(Uint8Array, Math.ceil(length / 2), 'packed codes');
  // Bytes are counted beside elements: a shift would cut an index at 2^31.
  for (let i = 0, byte = 0; i < length; i += 2, byte++) {
    const low = given[i]!;
    if (low < -8 || low > 7) throw outOfRange(low, i);
    if (i + 1 === length) {
      bytes[byte] = low & 15;
      break;
    }
    const high = given[i + 1]!;
    if (high < -8 || high > 7) throw outOfRange(high, i + 1);
    bytes[byte] = (low & 15) | (high << 4);
  }
  return bytes;
}

function outOfRange(code: number, element: number): IntFlashError {
  return new IntFlashError('ERR_ARG_RANGE', `Expected INT4 codes in [-8, 7], got ${code} at element ${element}`);
}

/**
 * Unpacks `count` codes; all that the bytes hold where absent.
 *
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_SHAPE` when `packed` does not hold exactly ceil(count / 2) bytes, `ERR_BUFFER_*`, `ERR_OOM`.
 */
export function unpackInt4(packed: Uint8Array, count?: number): Int8Array {
  const bytes = uint8Array(packed, 'packed');
  if (count !== undefined && typeof count !== 'number') throw wrongType('count to be a number', count);
  return unpackChecked(bytes, count ?? bytes.length * 2);
}

/** As {@link unpackInt4}, of bytes that are known to be an array. */
export function unpackChecked(packed: Uint8Array, count: number): Int8Array {
  checkPacked(packed, count);
  const codes = hostArray(Int8Array, count, 'codes');
  const pairs = Math.floor(count / 2);
  for (let byte = 0, i = 0; byte < pairs; byte++, i += 2) {
    codes[i] = (packed[byte]! << 28) >> 28; // the shift back copies the sign
    codes[i + 1] = (packed[byte]! << 24) >> 28;
  }
  if (pairs * 2 < count) codes[count - 1] = (packed[pairs]! << 28) >> 28;
  return codes;
}

/** @throws {IntFlashError} `ERR_SHAPE` when `packed` does not hold exactly ceil(count / 2) bytes. */
export function checkPacked(packed: Uint8Array, count: number): void {
  if (!Number.isInteger(count) || count < 0 || packed.length !== Math.ceil(count / 2)) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected ceil(count / 2) packed bytes, got ${packed.length} for count ${count}`,
    );
  }
}
