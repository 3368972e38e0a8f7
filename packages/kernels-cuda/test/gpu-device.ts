import type { TensorLike } from '@int-flash/ops';
import { afterAll, beforeAll, expect } from 'vitest';
import { type CudaDevice, openCudaDevice } from '../src/cuda-device.js';
import type { CudaTensor } from '../src/cuda-tensor.js';
import type { CudaAttentionInputs } from '../src/device-attention.js';

/** Opens a device for the tests of a `describe`, for `take` to keep, and disposes of it after them. Whatever they put there has to be gone by then. */
export function useGpuDevice(take: (device: CudaDevice) => void): void {
  let device: CudaDevice;
  beforeAll(() => {
    device = openCudaDevice();
    take(device);
  });
  afterAll(() => {
    expect(device.liveBytes()).toBe(0);
    device.dispose();
  });
}

export async function uploadInputs(
  device: CudaDevice,
  { query, key, value }: Record<keyof CudaAttentionInputs, TensorLike>,
) {
  return { query: await device.upload(query), key: await device.upload(key), value: await device.upload(value) };
}

export function disposeAll(...owned: ({ dispose(): void } | undefined)[]): void {
  for (const each of owned) each?.dispose();
}

/** A tensor’s numbers as they lie there. */
export async function downloaded(tensor: CudaTensor) {
  return (await tensor.download()).data;
}

/** Where a view's elements lie, one index after the other, counted from its first. */
export function placesOf(dims: readonly number[], strides: readonly number[]): number[] {
  return Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => {
    let [left, at] = [i, 0];
    for (let axis = dims.length - 1; axis >= 0; axis--) {
      at += (left % dims[axis]!) * strides[axis]!;
      left = Math.floor(left / dims[axis]!);
    }
    return at;
  });
}
