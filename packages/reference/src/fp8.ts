import { IntFlashError } from '@int-flash/ops';
import { roundHalfEven } from '@int-flash/quant';

/**
 * The two 8-bit floats of GPUs (OCP OFP8):
 * - `e4m3`: 4 exponent and 3 fraction bits, up to 448, no infinities; only S.1111.111 is NaN. FlashAttention-3's FP8.
 * - `e5m2`: 5 and 2 bits, up to 57344, infinities and NaNs as IEEE has them. What the paper's script casts to.
 */
export const FP8_FORMATS = ['e4m3', 'e5m2'] as const;
export type Fp8Format = (typeof FP8_FORMATS)[number];

interface Layout {
  readonly fractionBits: number;
  readonly bias: number;
  /** Largest finite value. */
  readonly max: number;
  /** Code of NaN; of either sign it is the same with bit 7 set. */
  readonly nan: number;
  /** Code of infinity, where there is one. */
  readonly infinity?: number;
}

const LAYOUTS: Readonly<Record<Fp8Format, Layout>> = {
  e4m3: { fractionBits: 3, bias: 7, max: 448, nan: 0x7f },
  e5m2: { fractionBits: 2, bias: 15, max: 57344, nan: 0x7f, infinity: 0x7c },
};

/** Largest finite number of a format: what a tensor's maximum is scaled to. */
export function maxFp8(format: Fp8Format): number {
  return layoutOf(format).max;
}

/** The number that an 8-bit code stands for. @param code in [0, 255] */
export function decodeFp8(code: number, format: Fp8Format): number {
  const { fractionBits, bias, infinity, nan } = layoutOf(format);
  if (!Number.isInteger(code) || code < 0 || code > 255) {
    throw new IntFlashError('ERR_ARG_RANGE', `Expected an 8-bit code, got ${code}`);
  }
  const sign = code >= 128 ? -1 : 1;
  const magnitude = code & 0x7f;
  if (infinity === undefined ? magnitude === nan : magnitude > infinity) return Number.NaN;
  if (magnitude === infinity) return sign * Infinity;
  const exponent = magnitude >> fractionBits;
  const fraction = (magnitude & (2 ** fractionBits - 1)) / 2 ** fractionBits;
  return exponent === 0 ? sign * fraction * 2 ** (1 - bias) : sign * (1 + fraction) * 2 ** (exponent - bias);
}

/** The code of the number that {@link roundToFp8} gives. */
export function encodeFp8(value: number, format: Fp8Format): number {
  const { fractionBits, bias, nan } = layoutOf(format);
  const rounded = roundToFp8(value, format);
  const sign = rounded < 0 || Object.is(rounded, -0) ? 0x80 : 0;
  if (Number.isNaN(rounded)) return nan;
  const magnitude = Math.abs(rounded);
  const exponent = Math.max(exponentOf(magnitude), 1 - bias);
  // Below the smallest normal number the leading 1 is missing, and with it the exponent field's 1.
  const field = magnitude / 2 ** (exponent - fractionBits) + (exponent + bias - 1) * 2 ** fractionBits;
  return sign | field;
}

/**
 * The nearest number of a format, ties to even, saturated to its largest: GPUs' `cvt.rn.satfinite`, and `.to(float8)` wherever the input
 * is in range. NaN stays NaN.
 */
export function roundToFp8(value: number, format: Fp8Format): number {
  const { fractionBits, bias, max } = layoutOf(format);
  if (Number.isNaN(value)) return value;
  const magnitude = Math.min(Math.abs(value), max);
  const step = 2 ** (Math.max(exponentOf(magnitude), 1 - bias) - fractionBits);
  const rounded = roundHalfEven(magnitude / step) * step;
  return value < 0 || Object.is(value, -0) ? -rounded : rounded;
}

const bits = new Float32Array(1);
const words = new Uint32Array(bits.buffer);

/** floor(log2 x) for x >= 0; a number that float32 rounds up to a power of two counts as that power, which rounds to the same. */
function exponentOf(x: number): number {
  bits[0] = x;
  return (words[0]! >>> 23) - 127;
}

function layoutOf(format: Fp8Format): Layout {
  const layout = LAYOUTS[format];
  if (!layout)
    throw new IntFlashError('ERR_ARG_RANGE', `Expected format to be one of ${FP8_FORMATS.join(', ')}, got ${format}`);
  return layout;
}
