export type GgufNumberType = 'uint32' | 'int32' | 'float32' | 'bool' | 'uint64';

export type GgufEntry =
  | readonly [key: string, type: GgufNumberType, value: number | readonly number[]]
  | readonly [key: string, type: 'string', value: string | readonly string[]];

export interface GgufTensorFacts {
  readonly name: string;
  readonly shape: readonly number[];
  readonly type: number;
  readonly bytes: number;
}

export function ggufHeader(
  metadata: readonly GgufEntry[],
  tensors: readonly GgufTensorFacts[],
  options?: { readonly version?: number; readonly alignment?: number },
): Buffer;

export function padding(length: number, alignment?: number): number;
