import { type GgufEntry, type GgufTensorFacts, ggufHeader, padding } from '../../../tools/gguf-header.mjs';

/** A GGUF file of zeros with some metadata: numbers as uint32 (fractions as float32), texts, lists of either. */
export function tinyGguf(
  metadata: Readonly<Record<string, number | string | readonly number[] | readonly string[]>>,
  tensors: readonly GgufTensorFacts[],
): Buffer {
  const entries = Object.entries(metadata).map(([key, value]) => {
    const [first] = typeof value === 'object' ? value : [value];
    const type = typeof first === 'string' ? 'string' : Number.isInteger(first) ? 'uint32' : 'float32';
    return [key, type, value] as GgufEntry;
  });
  const bytes = tensors.reduce((sum, tensor) => sum + tensor.bytes + padding(tensor.bytes), 0);
  return Buffer.concat([ggufHeader(entries, tensors), Buffer.alloc(bytes)]);
}
