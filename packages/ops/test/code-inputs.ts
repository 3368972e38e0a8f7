const size = (dims: readonly number[]) => dims.reduce((total, dim) => total * dim, 1);

/** A tensor of zeros. */
export function float(dims: number[], type = 'float32') {
  return { type, dims, data: type === 'float32' ? new Float32Array(size(dims)) : new Uint16Array(size(dims)) };
}

export const codes = (dims: number[]) => ({ type: 'int8', dims, data: new Int8Array(size(dims)) });
export const ones = (dims: number[]) => ({ type: 'float32', dims, data: new Float32Array(size(dims)).fill(1) });

/** Three queries against four keys, two heads of eight. */
export const codeInputs = () => ({
  q: codes([1, 2, 3, 8]),
  k: codes([1, 2, 4, 8]),
  v: codes([1, 2, 4, 8]),
  qScale: ones([1, 2, 3]),
  kScale: ones([1, 2, 4]),
  vScale: ones([1, 2, 4]),
  vChannelScale: ones([1, 2, 8]),
});

export const halfInputs = () => {
  const { q, k, qScale, kScale } = codeInputs();
  return { q, k, v: float([1, 2, 4, 8]), qScale, kScale };
};
