import { fromFloat32, IntFlashError, toFloat32 } from '@int-flash/ops';
import { INT4_GROUPS, type Int4Group, packInt4, quantizePerTokenInt8 } from '@int-flash/quant';
import { quantizeFittedInt4 } from './fitted-int4.js';
import type { QuantizationScheme } from './quantization-config.js';
import type { SafetensorsTensor } from './safetensors.js';
import type { TensorOutline } from './safetensors-writer.js';

/** How a checkpoint stores a quantized weight: as several tensors, each named like the weight and a suffix. */
export interface WeightLayout {
  readonly suffixes: readonly string[];
  outline(name: string, rows: number, cols: number): TensorOutline[];
  /** One of the tensors. @param read  the weight `name`, [rows, cols]; not every tensor needs it */
  make(name: string, suffix: string, shape: MatrixShape, read: () => Promise<Float32Array>): Promise<SafetensorsTensor>;
}

interface MatrixShape {
  readonly rows: number;
  readonly cols: number;
}

export function weightLayout(scheme: QuantizationScheme): WeightLayout {
  return scheme.format === 'int-quantized' ? INT8_LAYOUT : int4Layout(scheme.group);
}

/** `codes` I8, and `_scale` F32 [rows, 1]. */
const INT8_LAYOUT: WeightLayout = {
  suffixes: ['', '_scale'],
  outline: (name, rows, cols) => [
    { name, dtype: 'I8', shape: [rows, cols] },
    { name: `${name}_scale`, dtype: 'F32', shape: [rows, 1] },
  ],
  make: async (_name, suffix, { rows, cols }, read) => {
    const quantized = quantizePerTokenInt8(await read(), cols);
    return suffix === '_scale'
      ? { dtype: 'F32', shape: [rows, 1], data: quantized.scales }
      : { dtype: 'I8', shape: [rows, cols], data: quantized.values };
  },
};

/** `_packed` I32 with eight codes a word, each plus 8, the first lowest; `_scale` BF16 a group; `_shape`. */
function int4Layout(group: Int4Group): WeightLayout {
  const made = new Map<string, Uint16Array>(); // scales whose codes are written, a 32nd of the weights' number at most: fitting them takes longest
  const fit = (values: Float32Array) => fromFloat32(quantizeFittedInt4(values, group).scales, 'bfloat16');
  return {
    suffixes: ['_packed', '_scale', '_shape'],
    outline: (name, rows, cols) => {
      if (cols % group !== 0) {
        throw new IntFlashError(
          'ERR_UNSUPPORTED',
          `Expected ${name} with a multiple of ${group} columns, got ${cols}`,
          {
            hint: group === INT4_GROUPS[0] ? 'Choose INT8.' : 'Choose a smaller group, or INT8.',
          },
        );
      }
      return [
        { name: `${name}_packed`, dtype: 'I32', shape: [rows, cols / 8] },
        { name: `${name}_scale`, dtype: 'BF16', shape: [rows, cols / group] },
        { name: `${name}_shape`, dtype: 'I64', shape: [2] },
      ];
    },
    make: async (name, suffix, { rows, cols }, read) => {
      if (suffix === '_shape') return { dtype: 'I64', shape: [2], data: BigInt64Array.of(BigInt(rows), BigInt(cols)) };
      if (suffix === '_scale') {
        const data = made.get(name) ?? fit(await read());
        made.delete(name);
        return { dtype: 'BF16', shape: [rows, cols / group], data };
      }
      const values = await read();
      const scales = fit(values);
      made.set(name, scales);
      return { dtype: 'I32', shape: [rows, cols / 8], data: packGroups(values, toFloat32(scales, 'bfloat16'), group) };
    },
  };
}

function packGroups(values: Float32Array, scales: Float32Array, group: Int4Group): Int32Array {
  const codes = new Int8Array(values.length);
  for (let i = 0; i < codes.length; i++) {
    const steps = Math.round(values[i]! / scales[Math.floor(i / group)]!);
    codes[i] = Math.min(Math.max(steps, -8), 7);
  }
  return flipSigns(packInt4(codes));
}

/** `packInt4`'s bytes to words of codes plus 8 and back, in place: two's complement differs in one bit a code. */
export function flipSigns(packed: Uint8Array | Int32Array): Int32Array {
  const words = new Int32Array(packed.buffer, packed.byteOffset, packed.byteLength / 4);
  for (let i = 0; i < words.length; i++) words[i]! ^= 0x88888888;
  return words;
}
