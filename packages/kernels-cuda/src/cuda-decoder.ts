import {
  checkChoice,
  type Decoder,
  type DecoderLayer,
  type DecoderPage,
  type DecoderPart,
  type DecoderSequence,
  type DecoderSpec,
  type DrawPart,
  IntFlashError,
  type KeyScales,
  type Linear,
  type LogitsPart,
} from '@int-flash/ops';
import { CudaLinear } from './cuda-linear.js';
import { expectDraw, expectList, expectLogits, expectParts, expectTokens, expectWanted } from './decoder-arguments.js';
import { MAX_HEAD_DIM } from './decoder-memory.js';
import type {
  DecoderHandle,
  DeviceHandle,
  LinearHandle,
  NativeAddon,
  PageHandle,
  SequenceHandle,
} from './native-addon.js';
import type { NativeSequenceState } from './native-decoder.js';
import { awaitNative, callNative } from './native-error.js';

/** As native/decoder.h numbers them. */
const ACTIVATION_NUMBERS = { swiglu: 0, silu: 1, gelu: 2, 'gelu-tanh': 3 } as const;

/**
 * A decoder whose weights, caches and activations stay on the GPU.
 *
 * @returns undefined for heads wider than 256, which the kernels do not hold.
 * @throws {IntFlashError} `ERR_ARG_TYPE` for linear layers of another backend, `ERR_OOM`.
 */
export function createCudaDecoder(addon: NativeAddon, device: DeviceHandle, spec: DecoderSpec): Decoder | undefined {
  if (spec.headDim > MAX_HEAD_DIM) return undefined;
  const { hiddenSize, intermediateSize, vocabSize, norm, activation, rotary, output, layers, ...same } = spec;
  const handle = callNative(() =>
    addon.createDecoder(device, {
      ...same,
      hidden: hiddenSize,
      intermediate: intermediateSize,
      vocabulary: vocabSize,
      rotaryHalf: rotary?.half ?? 0,
      cos: rotary?.cos,
      sin: rotary?.sin,
      epsilon: norm.epsilon,
      centered: norm.type === 'layer',
      activation: ACTIVATION_NUMBERS[activation],
      layers: layers.map(nativeLayer),
      output: handleOf(output),
    }),
  );
  return new CudaDecoder(addon, device, handle, spec.vocabSize);
}

function nativeLayer({ qkv, attentionOutput, mlpUp, mlpDown, windowLeft, ...same }: DecoderLayer) {
  return {
    ...same,
    qkv: handleOf(qkv),
    attentionOutput: handleOf(attentionOutput),
    mlpUp: handleOf(mlpUp),
    mlpDown: handleOf(mlpDown),
    windowLeft: Number.isFinite(windowLeft) ? windowLeft : -1,
  };
}

function handleOf(linear: Linear): LinearHandle {
  if (linear instanceof CudaLinear) return linear.nativeHandle();
  throw new IntFlashError('ERR_ARG_TYPE', 'Expected linear layers of the cuda backend, got one of another');
}

class CudaDecoder implements Decoder {
  readonly #addon: NativeAddon;
  readonly #device: DeviceHandle;
  readonly #vocabSize: number;
  #handle: DecoderHandle | undefined;

  constructor(addon: NativeAddon, device: DeviceHandle, handle: DecoderHandle, vocabSize: number) {
    this.#addon = addon;
    this.#device = device;
    this.#handle = handle;
    this.#vocabSize = vocabSize;
  }

  createSequence(cacheType: 'int8' | 'int4', keyScales?: KeyScales): DecoderSequence {
    const decoder = this.#expectLive();
    const isInt4 = checkChoice(cacheType ?? null, 'cacheType', ['int8', 'int4'], 'int8') === 'int4';
    const hasChannels = checkChoice(keyScales, 'keyScales', ['token', 'channel'], 'token') === 'channel';
    const sequence = callNative(() => this.#addon.createCacheSequence(this.#device, decoder, isInt4, hasChannels));
    return new CudaSequence(this.#addon, this.#device, decoder, sequence, this.#vocabSize);
  }

  async forwardBatch(parts: readonly LogitsPart[], logits: Float32Array): Promise<void> {
    const decoder = this.#expectLive();
    const sequences = sequencesOf(parts, decoder);
    const native = parts.map((part, i) => ({
      sequence: sequences[i]!.expectLive(),
      ids: part.ids,
      wanted: expectWanted(part),
    }));
    const rows = native.reduce((sum, { wanted }) => sum + wanted, 0);
    expectLogits(logits, rows, this.#vocabSize);
    const bytes = await awaitNative(() => this.#addon.decoderForward(this.#device, decoder, native, logits));
    noteGrown(sequences, parts, bytes);
  }

  async drawBatch(parts: readonly DrawPart[]): Promise<Int32Array> {
    const decoder = this.#expectLive();
    const sequences = sequencesOf(parts, decoder);
    const native = parts.map((part, i) => ({
      sequence: sequences[i]!.expectLive(),
      ids: part.ids,
      draw: expectDraw(part),
    }));
    const { drawn, bytes } = await awaitNative(() => this.#addon.decoderDraw(this.#device, decoder, native));
    noteGrown(sequences, parts, bytes);
    return drawn;
  }

  #expectLive(): DecoderHandle {
    if (!this.#handle) throw new IntFlashError('ERR_DISPOSED', 'Expected a live decoder, got one that was disposed');
    return this.#handle;
  }

  dispose(): void {
    if (!this.#handle) return;
    this.#addon.disposeDecoder(this.#handle);
    this.#handle = undefined;
  }
}

function sequencesOf(parts: readonly DecoderPart[], decoder: DecoderHandle): CudaSequence[] {
  expectParts(parts);
  return parts.map(({ sequence }) => {
    if (sequence instanceof CudaSequence && sequence.decoder === decoder) return sequence;
    throw new IntFlashError('ERR_ARG_TYPE', 'Expected sequences of this decoder, got one of another');
  });
}

function noteGrown(sequences: readonly CudaSequence[], parts: readonly DecoderPart[], bytes: ArrayLike<number>): void {
  sequences.forEach((sequence, i) => {
    sequence.grew(parts[i]!.ids.length, bytes[i]!);
  });
}

class CudaSequence implements DecoderSequence {
  readonly #addon: NativeAddon;
  readonly #device: DeviceHandle;
  readonly decoder: DecoderHandle;
  readonly #vocabSize: number;
  #handle: SequenceHandle | undefined;
  #length = 0;
  #bytes = 0;

  constructor(
    addon: NativeAddon,
    device: DeviceHandle,
    decoder: DecoderHandle,
    handle: SequenceHandle,
    vocabSize: number,
  ) {
    this.#addon = addon;
    this.#device = device;
    this.decoder = decoder;
    this.#handle = handle;
    this.#vocabSize = vocabSize;
  }

  get length(): number {
    return this.#length;
  }

  get bytes(): number {
    return this.#bytes;
  }

  async forward(ids: Int32Array, logits: Float32Array): Promise<void> {
    const sequence = this.expectLive();
    expectTokens(ids);
    const wanted = logits?.length === this.#vocabSize ? 1 : ids.length;
    expectLogits(logits, wanted, this.#vocabSize);
    const part = { sequence, ids, wanted };
    const bytes = await awaitNative(() => this.#addon.decoderForward(this.#device, this.decoder, [part], logits));
    this.grew(ids.length, bytes[0]!);
  }

  /** So many tokens more, and what the cache takes now. */
  grew(tokens: number, bytes: number): void {
    this.#length += tokens;
    this.#bytes = bytes;
  }

  truncate(length: number): void {
    const sequence = this.expectLive();
    this.#become(callNative(() => this.#addon.truncateCacheSequence(this.#device, sequence, length)));
  }

  sharePage(index: number): DecoderPage | undefined {
    const sequence = this.expectLive();
    const page = callNative(() => this.#addon.shareCachePage(this.#device, sequence, index));
    return page && new CudaPage(this.#addon, page, this.decoder);
  }

  adoptPages(index: number, pages: readonly DecoderPage[]): void {
    const sequence = this.expectLive();
    expectList(pages, 'pages');
    const native = pages.map((page) => {
      if (page instanceof CudaPage && page.decoder === this.decoder) return page.expectLive();
      throw new IntFlashError('ERR_ARG_TYPE', 'Expected pages of this decoder, got one of another');
    });
    this.#become(callNative(() => this.#addon.adoptCachePages(this.#device, sequence, index, native)));
  }

  dispose(): void {
    if (!this.#handle) return;
    this.#addon.disposeCacheSequence(this.#handle);
    this.#handle = undefined;
    this.#bytes = 0;
  }

  expectLive(): SequenceHandle {
    if (!this.#handle) throw new IntFlashError('ERR_DISPOSED', 'Expected a live sequence, got one that was disposed');
    return this.#handle;
  }

  #become({ length, bytes }: NativeSequenceState): void {
    this.#length = length;
    this.#bytes = bytes;
  }
}

class CudaPage implements DecoderPage {
  readonly #addon: NativeAddon;
  readonly decoder: DecoderHandle;
  #handle: PageHandle | undefined;

  constructor(addon: NativeAddon, handle: PageHandle, decoder: DecoderHandle) {
    this.#addon = addon;
    this.#handle = handle;
    this.decoder = decoder;
  }

  dispose(): void {
    if (!this.#handle) return;
    this.#addon.disposeCachePage(this.#handle);
    this.#handle = undefined;
  }

  expectLive(): PageHandle {
    if (!this.#handle) throw new IntFlashError('ERR_DISPOSED', 'Expected a live page, got one that was disposed');
    return this.#handle;
  }
}
