import { IntFlashError } from '@int-flash/ops';
import type { CudaTensor } from './cuda-tensor.js';
import {
  attendCodesOnDevice,
  attendOnDevice,
  type CudaAttentionInputs,
  type CudaAttentionOptions,
  type CudaHalfQuantizedInputs,
  type CudaQuantizedInputs,
} from './device-attention.js';
import type { DeviceContext } from './device-context.js';
import { packOnDevice, unpackOnDevice } from './device-int4.js';
import { type CudaQuantizedTensor, type QuantizeOptions, quantizeOnDevice } from './device-quantize.js';
import type { DeviceHandle, NativeAddon, RecordingHandle } from './native-addon.js';

/** Attention options that a recording can keep: a graph has its own `stream`, `signal` and `repeats`. */
export type RecordedAttentionOptions = Omit<CudaAttentionOptions, 'stream' | 'signal' | 'repeats'>;
type RecordedQuantizedOptions = Omit<RecordedAttentionOptions, 'smoothK'>;
/** Quantizing options that a recording can keep. */
export type RecordedQuantizeOptions = Omit<QuantizeOptions, 'stream' | 'signal'>;

/**
 * What `CudaDevice.capture` hands to its function. Each call runs at once, so its answer can be looked at, and is recorded. The answers
 * belong to the graph.
 */
export class CudaRecorder {
  readonly #context: DeviceContext;
  #open = true;
  #abandoned = false;
  /** @internal */
  readonly outputs: CudaTensor[] = [];

  /** @internal */
  constructor(addon: NativeAddon, device: DeviceHandle, recording: RecordingHandle, expectOpen: () => void) {
    this.#context = {
      addon,
      device,
      recording,
      expectOpen: () => {
        expectOpen();
        if (!this.#open)
          throw new IntFlashError('ERR_DISPOSED', 'Expected an open CudaRecorder, got one whose capture has ended');
      },
      // Of a call that was still under way when the capture failed nobody will hear.
      made: (tensor) => (this.#abandoned ? tensor.release() : this.outputs.push(tensor)),
    };
  }

  /** As `CudaDevice.attention`. */
  async attention(inputs: CudaAttentionInputs, options: RecordedAttentionOptions = {}) {
    const { out, lse } = await attendOnDevice(this.#context, inputs, options);
    return lse ? { out, lse } : { out };
  }

  /** As `CudaDevice.quantizedAttention`. */
  async quantizedAttention(
    inputs: CudaQuantizedInputs,
    options?: RecordedQuantizedOptions,
  ): Promise<{ out: CudaTensor; lse?: CudaTensor }>;
  async quantizedAttention(
    inputs: CudaHalfQuantizedInputs,
    options: RecordedQuantizedOptions & { readonly precision: 'half-int8' },
  ): Promise<{ out: CudaTensor; lse?: CudaTensor }>;
  async quantizedAttention(
    inputs: CudaQuantizedInputs | CudaHalfQuantizedInputs,
    options: RecordedQuantizedOptions = {},
  ) {
    const { out, lse } = await attendCodesOnDevice(this.#context, inputs, options);
    return lse ? { out, lse } : { out };
  }

  /** As `CudaDevice.quantize`. */
  async quantize(tensor: CudaTensor, options: RecordedQuantizeOptions = {}): Promise<CudaQuantizedTensor> {
    return quantizeOnDevice(this.#context, tensor, options);
  }

  /** As `CudaDevice.packInt4`. */
  async packInt4(codes: CudaTensor): Promise<CudaTensor> {
    return packOnDevice(this.#context, codes, {});
  }

  /** As `CudaDevice.unpackInt4`. */
  async unpackInt4(packed: CudaTensor): Promise<CudaTensor> {
    return unpackOnDevice(this.#context, packed, {});
  }

  /** @internal */
  close(): void {
    this.#open = false;
  }

  /** @internal The capture failed: what there is, and what calls under way still make, is given back. */
  abandon(): void {
    this.close();
    this.#abandoned = true;
    for (const output of this.outputs) output.release();
  }
}
