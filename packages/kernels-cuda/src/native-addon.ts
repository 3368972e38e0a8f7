import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { CacheTimingRequest, NativeDecoder, NativeLinear, NativeSequenceState } from './native-decoder.js';

declare const handle: unique symbol;
/** An object of the addon's, opaque here. */
export interface NativeHandle<Kind extends string> {
  readonly [handle]: Kind;
}
export type DeviceHandle = NativeHandle<'device'>;
export type BufferHandle = NativeHandle<'buffer'>;
export type AbortFlag = NativeHandle<'abort'>;
export type StreamHandle = NativeHandle<'stream'>;
export type EventHandle = NativeHandle<'event'>;
export type PinnedHandle = NativeHandle<'pinned'>;
export type RecordingHandle = NativeHandle<'recording'>;
export type GraphHandle = NativeHandle<'graph'>;
export type LinearHandle = NativeHandle<'linear'>;
export type DecoderHandle = NativeHandle<'decoder'>;
export type SequenceHandle = NativeHandle<'sequence'>;
export type PageHandle = NativeHandle<'page'>;

/** What the addon sees of driver and devices. */
export interface Probe {
  /** As CUDA numbers them: 13000 is 13.0. 0: no driver. */
  readonly driverVersion: number;
  readonly runtimeVersion: number;
  /** Name of the CUDA status of counting devices, unless it went well. */
  readonly error?: string;
  /** What the kernels were compiled for, as CMake spells it: `80-real 90a-real 80-virtual`. */
  readonly architectures: string;
  readonly devices: readonly {
    readonly name: string;
    readonly major: number;
    readonly minor: number;
    readonly totalBytes: number;
  }[];
}

/** A place in device memory. */
export interface NativeBufferSource {
  readonly buffer: BufferHandle;
  readonly byteOffset: number;
}

/** A range of page-locked host memory. */
export interface NativePinnedSource {
  readonly pinned: PinnedHandle;
  readonly byteOffset: number;
  readonly bytes: number;
}

/** Which elements of a place in device memory, up to eight axes. */
export interface NativeLayout {
  readonly elementBytes: number;
  /** Dim and stride of each axis, the outermost first. */
  readonly axes: Float64Array;
}

export type NativeSource = ArrayBufferView | NativeBufferSource;

export interface NativeStrides {
  readonly batch: number;
  readonly head: number;
  readonly token: number;
}

export interface NativeOperand {
  /** 0 float32, 1 float16, 2 bfloat16, 3 int8 codes. */
  readonly type: number;
  readonly data: NativeSource;
  readonly strides: NativeStrides;
  readonly scale?: NativeSource;
  readonly scaleStrides?: NativeStrides;
}

/** One attention call as native/read_request.cc reads it. */
export interface NativeRequest {
  readonly precision: number;
  readonly kernel?: number | undefined;
  readonly smoothK: boolean;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly headDimV: number;
  /** qStart, qLen, kStart, kLen of each sequence. */
  readonly sequences: Float64Array;
  readonly scale: number;
  readonly softcap: number;
  readonly windowLeft: number;
  readonly windowRight: number;
  readonly bottomRight: boolean;
  readonly query: NativeOperand;
  readonly key: NativeOperand;
  readonly value: NativeOperand;
  readonly channelScale?: NativeSource | undefined;
  readonly channelStrides?: NativeStrides | undefined;
  readonly mask?:
    | {
        readonly data: NativeSource;
        readonly isFloat: boolean;
        readonly batch: number;
        readonly head: number;
        readonly query: number;
        readonly key: number;
      }
    | undefined;
  readonly outStrides: NativeStrides;
  readonly lseStrides: NativeStrides;
  readonly outElements: number;
  readonly lseElements: number;
  readonly returnLse: boolean;
  /** As `type` of an operand; 0 when absent. Of an answer that stays on the device. */
  readonly outType?: number | undefined;
  /** Host memory for the answer; without it the answer stays on the device. */
  readonly out?: Float32Array | undefined;
  readonly lse?: Float32Array | undefined;
  readonly repeats?: number | undefined;
  readonly stream?: StreamHandle | undefined;
  readonly recording?: RecordingHandle | undefined;
  readonly abortFlag?: AbortFlag | undefined;
}

/** A tensor whose rows a call goes through one by one, as native/read_request.cc reads it. */
export interface NativeRowsRequest {
  readonly data: NativeSource;
  readonly strides: NativeStrides;
  readonly batch: number;
  readonly heads: number;
  readonly tokens: number;
  /** Numbers of a row: of packed codes, two a byte. */
  readonly dim: number;
  readonly stream?: StreamHandle | undefined;
  readonly recording?: RecordingHandle | undefined;
  readonly abortFlag?: AbortFlag | undefined;
}

/** One tensor to quantize. */
export interface NativeQuantizeRequest extends NativeRowsRequest {
  readonly type: number;
  /** The largest code. */
  readonly levels: number;
  /** A scale a token, a channel or a tensor: 0, 1, 2. */
  readonly granularity: number;
  readonly smoothK: boolean;
}

export interface NativeAnswer {
  readonly out?: BufferHandle;
  readonly lse?: BufferHandle;
  /** A place in KERNELS. */
  readonly kernel: number;
  readonly quantizeMs: number;
  readonly forwardMs: readonly number[];
  readonly quantizeRepeatMs: readonly number[];
}

/** What a kernel on sorted tiles answered, and what it read: kernels/sorted_layout.h. */
export type SortedImages = Readonly<
  Record<'out' | 'queryCodes' | 'queryScales' | 'tiles' | 'channelScale', BufferHandle>
> & { readonly lse?: BufferHandle };

export interface NativeAddon {
  probe(): Probe;
  openDevice(ordinal: number): DeviceHandle;
  closeDevice(device: DeviceHandle): void;
  deviceFacts(device: DeviceHandle): {
    readonly name: string;
    readonly major: number;
    readonly minor: number;
    readonly processors: number;
    readonly totalBytes: number;
  };
  openStream(device: DeviceHandle): StreamHandle;
  closeStream(stream: StreamHandle): void;
  liveBytes(device: DeviceHandle): number;
  pinnedBytes(device: DeviceHandle): number;
  memory(device: DeviceHandle): Promise<{ free: number; total: number }>;

  allocate(device: DeviceHandle, bytes: number, stream?: StreamHandle): Promise<BufferHandle>;
  upload(
    device: DeviceHandle,
    source: ArrayBufferView | NativePinnedSource,
    stream?: StreamHandle,
  ): Promise<BufferHandle>;
  write(
    device: DeviceHandle,
    buffer: BufferHandle,
    byteOffset: number,
    source: ArrayBufferView | NativePinnedSource,
    stream?: StreamHandle,
  ): Promise<void>;
  copy(
    device: DeviceHandle,
    from: BufferHandle,
    fromByteOffset: number,
    to: BufferHandle,
    toByteOffset: number,
    bytes: number,
    stream?: StreamHandle,
  ): Promise<void>;
  download(
    device: DeviceHandle,
    buffer: BufferHandle,
    byteOffset: number,
    target: Uint8Array | NativePinnedSource,
    stream?: StreamHandle,
    /** Without it: what lies one behind the other. */
    layout?: NativeLayout,
  ): Promise<void>;
  disposeBuffer(buffer: BufferHandle): void;
  allocatePinned(device: DeviceHandle, bytes: number): Promise<{ handle: PinnedHandle; memory: ArrayBuffer }>;
  disposePinned(handle: PinnedHandle, memory: ArrayBuffer): void;

  synchronize(device: DeviceHandle, stream?: StreamHandle): Promise<void>;
  recordEvent(device: DeviceHandle, stream?: StreamHandle): EventHandle;
  holdBack(device: DeviceHandle, event: EventHandle, stream?: StreamHandle): Promise<void>;
  awaitEvent(device: DeviceHandle, event: EventHandle): Promise<void>;
  eventMs(device: DeviceHandle, start: EventHandle, end: EventHandle): Promise<number>;

  beginRecording(device: DeviceHandle): Promise<RecordingHandle>;
  finishRecording(device: DeviceHandle, recording: RecordingHandle): Promise<GraphHandle>;
  disposeRecording(recording: RecordingHandle): void;
  replay(
    device: DeviceHandle,
    graph: GraphHandle,
    times: number,
    stream?: StreamHandle,
    abortFlag?: AbortFlag,
  ): Promise<number>;
  disposeGraph(graph: GraphHandle): void;

  abortFlag(): AbortFlag;
  raiseAbortFlag(flag: AbortFlag): void;
  attention(device: DeviceHandle, request: NativeRequest): Promise<NativeAnswer>;
  attentionSync(device: DeviceHandle, request: NativeRequest): NativeAnswer;
  quantize(
    device: DeviceHandle,
    request: NativeQuantizeRequest,
  ): Promise<{ codes: BufferHandle; scales: BufferHandle; means?: BufferHandle }>;
  packInt4(device: DeviceHandle, request: NativeRowsRequest): Promise<BufferHandle>;
  unpackInt4(device: DeviceHandle, request: NativeRowsRequest): Promise<BufferHandle>;
  createLinear(device: DeviceHandle, weights: NativeLinear): LinearHandle;
  linearForward(
    device: DeviceHandle,
    layer: LinearHandle,
    input: Float32Array,
    tokens: number,
    out: Float32Array,
  ): void;
  disposeLinear(layer: LinearHandle): void;
  /** As the library says it; 0: there is none. */
  cublasLtVersion(device: DeviceHandle): number;
  createDecoder(device: DeviceHandle, decoder: NativeDecoder): DecoderHandle;
  createCacheSequence(device: DeviceHandle, decoder: DecoderHandle, int4: boolean, channels: boolean): SequenceHandle;
  /**
   * `wanted`: logits after so many of a part's last tokens.
   *
   * @returns bytes of each sequence's cache
   */
  decoderForward(
    device: DeviceHandle,
    decoder: DecoderHandle,
    parts: readonly { readonly sequence: SequenceHandle; readonly ids: Int32Array; readonly wanted: number }[],
    logits: Float32Array,
  ): Promise<number[]>;
  /** `draw`: temperature, topK, topP, minP, uniform, vocabulary for each token that is drawn. */
  decoderDraw(
    device: DeviceHandle,
    decoder: DecoderHandle,
    parts: readonly { readonly sequence: SequenceHandle; readonly ids: Int32Array; readonly draw: Float64Array }[],
  ): Promise<{ readonly drawn: Int32Array; readonly bytes: readonly number[] }>;
  truncateCacheSequence(device: DeviceHandle, sequence: SequenceHandle, length: number): NativeSequenceState;
  shareCachePage(device: DeviceHandle, sequence: SequenceHandle, page: number): PageHandle | undefined;
  adoptCachePages(
    device: DeviceHandle,
    sequence: SequenceHandle,
    page: number,
    pages: readonly PageHandle[],
  ): NativeSequenceState;
  timeCacheAttention(device: DeviceHandle, request: CacheTimingRequest): Promise<number[]>;
  disposeDecoder(decoder: DecoderHandle): void;
  disposeCacheSequence(sequence: SequenceHandle): void;
  disposeCachePage(page: PageHandle): void;
  compare(
    device: DeviceHandle,
    a: NativeBufferSource,
    b: NativeBufferSource,
    elements: number,
  ): Promise<{ difference: number; size: number; worst: number; odd: number }>;
  timeCopy(device: DeviceHandle, bytes: number, repeats: number): Promise<number[]>;

  /** The rest is for tests; see native/binding_probes.cc. */
  poisonShared(device: DeviceHandle): Promise<void>;
  poisonCache(device: DeviceHandle, sequence: SequenceHandle, from: number, room: number): Promise<void>;
  countDifferences(device: DeviceHandle, a: BufferHandle, b: BufferHandle): Promise<number>;
  fault(device: DeviceHandle): Promise<void>;
  sortedImages(device: DeviceHandle, request: NativeRequest): Promise<SortedImages>;
}

export type LoadedAddon =
  | { readonly addon: NativeAddon; readonly path: string }
  | {
      readonly addon: undefined;
      readonly reason: 'addon-not-installed' | 'addon-load-failed';
      readonly cause: Error | undefined;
    };

let loaded: LoadedAddon | undefined;
// A bundle in CommonJS has no import.meta: there the program stands for this module, with the node_modules that lie beside it.
const home = import.meta.url ?? pathToFileURL(process.argv[1] ?? join(process.cwd(), 'program')).href;

/**
 * Loads the addon once: from `INTFLASH_CUDA_ADDON_PATH` if set, else this package's own build, else the platform package.
 * Never throws: a machine without it is an ordinary one.
 */
export function loadNativeAddon(): LoadedAddon {
  const require = createRequire(home);
  loaded ??= findAddon({
    given: process.env.INTFLASH_CUDA_ADDON_PATH,
    built: fileURLToPath(new URL('../build/Release/int_flash_cuda.node', home)),
    load: (path) => require(path),
    // A literal, for tools that follow createRequire. Bundlers do not, and that is as well: they could not put a .node file into what they write.
    ...(process.platform === 'linux' &&
      process.arch === 'x64' && { loadPrebuilt: () => require('@int-flash/kernels-cuda-linux-x64') }),
  });
  return loaded;
}

/** Where the addon may be, and how it gets here. */
export interface AddonPlaces {
  /** Named by hand: anything else would hide a wrong path. */
  readonly given?: string | undefined;
  /** Where this package's own build would be. */
  readonly built: string;
  load(path: string): NativeAddon;
  /** The platform's package; absent where there is none for it. */
  loadPrebuilt?(): NativeAddon;
}

/** The first addon that loads, or why none does. */
export function findAddon({ given, built, load, loadPrebuilt }: AddonPlaces): LoadedAddon {
  const attempts: (() => { addon: NativeAddon; path: string } | undefined)[] = given
    ? [() => ({ addon: load(given), path: given })]
    : [
        () => (existsSync(built) ? { addon: load(built), path: built } : undefined),
        () => {
          try {
            return loadPrebuilt && { addon: loadPrebuilt(), path: '@int-flash/kernels-cuda-linux-x64' };
          } catch (error) {
            if ((error as NodeJS.ErrnoException).code === 'MODULE_NOT_FOUND') return undefined;
            throw error;
          }
        },
      ];
  const failures: Error[] = [];
  for (const attempt of attempts) {
    try {
      const found = attempt();
      if (found) return found;
    } catch (error) {
      failures.push(error as Error);
    }
  }
  if (failures.length === 0) return { addon: undefined, reason: 'addon-not-installed', cause: undefined };
  const cause =
    failures.length === 1
      ? failures[0]
      : new AggregateError(failures, failures.map((failure) => failure.message).join('; '));
  return { addon: undefined, reason: 'addon-load-failed', cause };
}
