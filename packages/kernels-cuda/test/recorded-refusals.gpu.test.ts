import { describe, expect, it } from 'vitest';
import type { CudaDevice } from '../src/cuda-device.js';
import type { CudaRecorder } from '../src/cuda-recorder.js';
import { cudaStatus } from '../src/cuda-status.js';
import { disposeAll, useGpuDevice } from './gpu-device.js';

describe.skipIf(!cudaStatus().available)('an operation that is refused while recording', () => {
  let device: CudaDevice;
  useGpuDevice((opened) => {
    device = opened;
  });

  it('leaves nothing in the graph, of its first half either', async () => {
    const upload = (value: number) =>
      device.upload({ type: 'float32', dims: [1, 1, 8, 8], data: new Float32Array(64).fill(value) });
    const [one, large] = [await upload(1), await upload(1e6)];
    const good = { query: one, key: one, value: one };
    // The attention is fine; its output is too large for float16.
    const refused = (recorder: CudaRecorder) =>
      expect(recorder.attention({ ...good, value: large }, { outType: 'float16' })).rejects.toMatchObject({
        code: 'ERR_OVERFLOW',
      });
    await expect(device.capture(refused)).rejects.toMatchObject({
      code: 'ERR_ARG_RANGE',
      message: expect.stringContaining('got none'),
    });

    const bytesOf = async (work: (recorder: CudaRecorder) => Promise<unknown>) => {
      const before = device.liveBytes();
      await using graph = await device.capture(work);
      await graph.replay({ repeats: 2 });
      return device.liveBytes() - before;
    };
    const alone = await bytesOf((recorder) => recorder.attention(good, { outType: 'float16' }));
    const among = await bytesOf(async (recorder) => {
      for (let i = 0; i < 3; i++) await refused(recorder);
      const answer = await recorder.attention(good, { outType: 'float16' });
      for (let i = 0; i < 3; i++) await refused(recorder);
      return answer;
    });
    expect(among).toBe(alone);
    disposeAll(one, large);
  });
});
