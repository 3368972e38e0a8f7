import {
  type Backend,
  type Decoder,
  IntFlashError,
  type KvCacheView,
  type Linear,
  type LinearSteps,
} from '@int-flash/ops';
import { CallBudget, FEW_TOKENS } from './call-budget.js';
import { decoderSpec } from './decoder-spec.js';
import { DeviceCache } from './device-cache.js';
import { type BatchPart, type PartOutcome, type SequenceCache, stepOnDevice } from './device-step.js';
import { HostLayers } from './host-layers.js';
import { isFloat, type KvCacheDtype } from './kv-cache-layer.js';
import { KvCaches, suitsDevice } from './kv-caches.js';
import { type AttentionChoice, type AttentionShape, attendCached } from './layers/attention.js';
import { gelu } from './layers/gelu-mlp.js';
import { layerNorm } from './layers/layer-norm.js';
import { addTo, runLinear } from './layers/linear-steps.js';
import { rmsNorm } from './layers/rms-norm.js';
import { Rotary } from './layers/rotary.js';
import { silu } from './layers/swiglu.js';
import type { ModelConfig } from './model-config.js';
import type { LayerWeights, ModelWeights, NormWeights } from './model-weights.js';
import type { Pace } from './pace.js';
import { lastRows, type PlacedPart, placeOnHost } from './placed-part.js';
import { rowsOf, StepMemory } from './step-memory.js';

/** Positions computed together while a prompt is read: enough to fill a matrix product, few enough to keep its steps short. */
export const PREFILL_CHUNK = 128;

/** Attention of many queries packs the cache first: an element takes as long as so many multiply-adds (15 to 60 were measured). */
const PACKING = { portable: 0, cpu: 32, cuda: 0 };

/** What a run over some tokens needs besides the weights. */
export interface ForwardRun {
  /** Holds the tokens before, and these afterwards; cut back to where it was if the run fails. */
  readonly cache: SequenceCache;
  readonly attention: AttentionChoice;
  readonly pace: Pace;
  /** Tokens a chunk; {@link PREFILL_CHUNK} unless a test wants another. */
  readonly chunk?: number;
}

/**
 * A decoder-only transformer: Llama, Mistral, Qwen2, Qwen3 and GPT-2 by the switches in their config.
 *
 * Stateless but for weights, rotary tables and what the backend makes of its layers, so sequences may run interleaved.
 */
export class Transformer {
  readonly config: ModelConfig;
  readonly caches: KvCaches;
  readonly #weights: ModelWeights;
  readonly #backend: Backend;
  readonly #rotary: Rotary | undefined;
  /** On the backend's device; undefined until it is wanted. */
  #decoder: Decoder | undefined;
  /** Made when a step wants them first. */
  #hostLayers: HostLayers | undefined;
  #hasHostLayers = true;
  #isDisposed = false;
  readonly #memory: StepMemory;
  readonly #layerCalls: CallBudget;
  readonly #outputCalls: CallBudget;
  readonly #attentionCalls = new Map<string, CallBudget>();

  /** @throws {IntFlashError} `ERR_UNSUPPORTED` for a gated MLP with another activation than silu. */
  constructor(
    config: ModelConfig,
    weights: ModelWeights,
    backend: Backend,
    caches = new KvCaches(config, {}, backend),
  ) {
    const { type, activation } = config.mlp;
    if (type === 'gated' && activation !== 'silu') {
      throw new IntFlashError('ERR_UNSUPPORTED', `Expected silu in a gated MLP, got ${activation}`);
    }
    this.config = config;
    this.#memory = new StepMemory(config);
    this.caches = caches;
    this.#weights = weights;
    this.#backend = backend;
    this.#layerCalls = new CallBudget(backend.name, backend.name !== 'cuda');
    this.#outputCalls = new CallBudget(backend.name, backend.name !== 'cuda');
    this.#rotary = config.position.type === 'rope' ? new Rotary(config.position) : undefined;
  }

  /**
   * An empty cache for one sequence. Where the backend runs a whole decoder on its own memory and the sequence's arithmetic is what that
   * computes (INT8 attention on codes), the cache lies there, and so does everything that {@link forward} does with it.
   */
  createCache(attention: AttentionChoice, dtype: KvCacheDtype): SequenceCache {
    const { host, device } = this.caches;
    if (device && suitsDevice(attention, dtype)) return device.create(dtype, this.#deviceDecoder());
    return host.create(attention, dtype, PREFILL_CHUNK, this.#isEven(attention, dtype));
  }

  /** Whether a query's bits are the same however the tokens are cut into calls of more than a few. */
  #isEven(attention: AttentionChoice, dtype: KvCacheDtype): boolean {
    // INT8 attention over floats quantizes all keys of a call together, and a GPU has kernels of its own for few queries.
    return this.#backend.name !== 'cuda' && (!isFloat(dtype) || attention === 'fp32');
  }

  /** As {@link KvCaches.contextLength}. */
  contextLength(attention: AttentionChoice, dtype: KvCacheDtype): number {
    if (!this.#isDisposed && this.caches.device && suitsDevice(attention, dtype)) this.#deviceDecoder(); // what it takes is not left for sequences
    return this.caches.contextLength(attention, dtype);
  }

  /** Frees what the backend holds beside the weights; twice is a no-op. */
  dispose(): void {
    this.#isDisposed = true;
    this.caches.device?.clear();
    this.#decoder?.dispose();
    this.#decoder = undefined;
    this.#hostLayers?.dispose();
    this.#hostLayers = undefined;
    this.#hasHostLayers = false;
  }

  /**
   * Runs `ids` behind what the cache holds.
   *
   * @param onLogits Called for each chunk with `[tokens, vocabSize]` logits and the index of its first token in `ids`; the array is
   *   reused. Absent: only the last token's logits are computed.
   * @returns Logits after the last token, [vocabSize].
   * @throws {IntFlashError} `ERR_SHAPE`, `ERR_ARG_RANGE` for bad ids, `ERR_NONFINITE`; `signal.reason` of the pace's signals.
   */
  async forward(
    ids: readonly number[],
    run: ForwardRun,
    onLogits?: (logits: Float32Array, first: number) => void,
  ): Promise<Float32Array> {
    if (ids.length === 0) throw noTokens();
    this.#expectIds(ids);
    const { cache, attention, pace, chunk = PREFILL_CHUNK } = run;
    if (cache instanceof DeviceCache) return cache.forward(ids, run, onLogits);
    const before = cache.length;
    try {
      for (let first = 0; ; first += chunk) {
        const part = ids.slice(first, first + chunk);
        const hidden = await this.#forwardParts([{ ids: part, cache, attention, first: 0, start: cache.length }], pace);
        if (onLogits) onLogits(await this.#logits(hidden, pace), first);
        if (first + chunk >= ids.length) return await this.#logits(hidden.subarray(-this.config.hiddenSize), pace);
      }
    } catch (error) {
      if (!cache.isDisposed) cache.truncate(before);
      throw error;
    }
  }

  /**
   * Runs one step over several sequences: the linear layers read all their tokens at once, attention each sequence's own cache.
   * No row depends on another but through its own cache, so a sequence's logits are to the bit what they are without the others.
   *
   * @returns What each part wants.
   * @throws as {@link forward}; every cache is then as it was before.
   */
  async forwardBatch(parts: readonly BatchPart[], pace: Pace): Promise<PartOutcome[]> {
    if (parts.some(({ ids }) => ids.length === 0)) throw noTokens();
    for (const { ids } of parts) this.#expectIds(ids);
    const before = parts.map(({ cache }) => cache.length);
    try {
      const placed = placeOnHost(parts);
      const fromHost = await this.#forwardOnHost(placed, pace);
      if (placed.length === parts.length) return fromHost;
      const fromDevice = await stepOnDevice(() => this.#deviceDecoder(), parts, pace);
      return parts.map(({ cache }) => fromDevice.get(cache) ?? fromHost.shift()!);
    } catch (error) {
      parts.forEach(({ cache }, i) => {
        if (!cache.isDisposed) cache.truncate(before[i]!);
      });
      throw error;
    }
  }

  /** Only of a backend that told what its sequences take. */
  #deviceDecoder(): Decoder {
    this.#decoder ??= this.#backend.createDecoder!(decoderSpec(this.config, this.#weights, this.#rotary))!;
    return this.#decoder;
  }

  #expectIds(ids: readonly number[]): void {
    const { vocabSize } = this.config;
    for (const id of ids) {
      if (!Number.isInteger(id) || id < 0 || id >= vocabSize)
        throw new IntFlashError('ERR_ARG_RANGE', `Expected token ids from 0 to ${vocabSize - 1}, got ${id}`);
    }
  }

  /** @returns For each part the logits that it wants. */
  async #forwardOnHost(parts: readonly PlacedPart[], pace: Pace): Promise<Float32Array[]> {
    if (parts.length === 0) return [];
    const { hiddenSize, vocabSize } = this.config;
    const hidden = await this.#forwardParts(parts, pace);
    const wanted = parts.map(({ ids, wantsAll }) => (wantsAll ? ids.length : 1));
    const logits = await this.#logits(lastRows(parts, wanted, hidden, hiddenSize), pace);
    let given = 0;
    return wanted.map((count) => {
      given += count;
      return logits.subarray((given - count) * vocabSize, given * vocabSize);
    });
  }

  async #forwardParts(placed: readonly PlacedPart[], pace: Pace): Promise<Float32Array> {
    const { hiddenSize, heads, kvHeads, headDim, slidingWindows } = this.config;
    const tokens = placed.reduce((sum, { ids }) => sum + ids.length, 0);
    const hidden = new Float32Array(tokens * hiddenSize);
    for (const { ids, first, start } of placed) {
      this.#embed(ids, start, hidden.subarray(first * hiddenSize, (first + ids.length) * hiddenSize));
    }
    const queries = heads * headDim;
    const keys = kvHeads * headDim;
    const stride = queries + 2 * keys;
    const isGated = this.config.mlp.type === 'gated';
    const buffers = this.#memory.take(tokens);
    const { qkv, query, mixed, widened } = buffers.cut;
    const scale = 1 / Math.sqrt(headDim);
    const run = HostLayers.suits(placed) ? this.#layersOfBackend()?.begin(placed[0]!, hidden, qkv) : undefined;

    for (const [index, layer] of this.#weights.layers.entries()) {
      if (run?.step(index)) {
        if (pace.isDue) await pace.rest();
        continue;
      }
      await this.#projectNormed(layer.attentionNorm, layer.qkv, hidden, tokens, qkv, pace);
      for (const { ids, first, start } of placed) {
        const end = first + ids.length;
        this.#turnHeads(rowsOf(qkv, stride, first, end), ids.length, layer, start, rowsOf(query, queries, first, end));
      }
      const windowLeft = (slidingWindows[index] ?? Infinity) - 1;
      const shape = { heads, scale, windowLeft };
      for (const { ids, cache, attention, first } of placed) {
        const count = ids.length;
        const end = first + count;
        const data = rowsOf(qkv, stride, first, end);
        cache.append(index, { data, tokens: count, keyOffset: queries, valueOffset: queries + keys, stride });
        const out = rowsOf(mixed, queries, first, end);
        const own = rowsOf(query, queries, first, end);
        cache.scaleQueries(index, own, heads);
        await this.#attend(attention, shape, own, count, cache.view(index), out, pace);
      }
      await this.#project(layer.attentionOutput, mixed, tokens, hidden, pace, { accumulate: true });
      await this.#projectNormed(layer.mlpNorm, layer.mlpUp, hidden, tokens, widened, pace, isGated);
      if (!isGated) this.#activate(widened);
      await this.#project(layer.mlpDown, widened, tokens, hidden, pace, { accumulate: true });
    }
    this.#memory.giveBack(buffers);
    return hidden;
  }

  #layersOfBackend(): HostLayers | undefined {
    if (!this.#hostLayers && this.#hasHostLayers) {
      this.#hostLayers = HostLayers.create(this.config, this.#weights, this.#backend, this.#rotary);
      this.#hasHostLayers = this.#hostLayers !== undefined;
    }
    return this.#hostLayers;
  }

  #projectNormed(
    norm: NormWeights,
    linear: Linear,
    input: Float32Array,
    tokens: number,
    out: Float32Array,
    pace: Pace,
    swiglu = false,
  ): Promise<void> | undefined {
    const { type, epsilon } = this.config.norm;
    if (type === 'rms') {
      return this.#project(linear, input, tokens, out, pace, { norm: { gain: norm.gain, epsilon }, swiglu });
    }
    const normed = new Float32Array(input.length);
    layerNorm(input, tokens, norm.gain, norm.bias, epsilon, normed);
    return this.#project(linear, normed, tokens, out, pace, { swiglu });
  }

  /** @returns a promise only where there is something to wait for: a step is dozens of these. */
  #project(
    linear: Linear,
    input: Float32Array,
    tokens: number,
    out: Float32Array,
    pace: Pace,
    steps: LinearSteps,
  ): Promise<void> | undefined {
    if (tokens <= FEW_TOKENS) {
      runLinear(linear, input, tokens, out, steps);
      return pace.isDue ? pace.rest() : undefined;
    }
    const { rows, cols } = linear;
    const width = steps.swiglu ? rows / 2 : rows;
    const calls = linear === this.#weights.output ? this.#outputCalls : this.#layerCalls;
    return calls.spend(tokens, { aCall: 0, aToken: rows * cols }, pace, (from, to) =>
      runLinear(linear, rowsOf(input, cols, from, to), to - from, rowsOf(out, width, from, to), steps),
    );
  }

  #attend(
    choice: AttentionChoice,
    shape: AttentionShape,
    query: Float32Array,
    tokens: number,
    cache: KvCacheView,
    out: Float32Array,
    pace: Pace,
  ): Promise<void> | undefined {
    if (tokens <= FEW_TOKENS) {
      attendCached(this.#backend, choice, shape, query, tokens, cache, out);
      return pace.isDue ? pace.rest() : undefined;
    }
    const { kvHeads, headDim, length } = cache;
    const row = shape.heads * headDim;
    const cost = {
      aCall: 2 * kvHeads * length * headDim * PACKING[this.#backend.name],
      aToken: 2 * Math.min(length, shape.windowLeft + tokens) * row,
    };
    return this.#callsOf(choice, cache.type).spend(tokens, cost, pace, (from, to) => {
      const seen = { ...cache, length: length - tokens + to };
      const part = rowsOf(query, row, from, to);
      attendCached(this.#backend, choice, shape, part, to - from, seen, rowsOf(out, row, from, to));
    });
  }

  /** Each kind has a rate of its own. */
  #callsOf(choice: AttentionChoice, type: KvCacheDtype): CallBudget {
    const kind = `${choice} ${type}`;
    const known = this.#attentionCalls.get(kind);
    if (known) return known;
    const calls = new CallBudget(this.#backend.name, this.#isEven(choice, type));
    this.#attentionCalls.set(kind, calls);
    return calls;
  }

  /** Norms q and k per head where the model does, and turns them to their positions: k in place, q into `query`. */
  #turnHeads(
    qkv: Float32Array,
    tokens: number,
    { queryNorm, keyNorm }: LayerWeights,
    start: number,
    query: Float32Array,
  ): void {
    const { heads, kvHeads, headDim, norm } = this.config;
    const stride = (heads + 2 * kvHeads) * headDim;
    const keyOffset = heads * headDim;
    if (queryNorm && keyNorm) {
      for (let token = 0; token < tokens; token++) {
        const row = token * stride;
        rmsNorm(qkv, heads, queryNorm, norm.epsilon, qkv, row);
        rmsNorm(qkv, kvHeads, keyNorm, norm.epsilon, qkv, row + keyOffset);
      }
    }
    if (this.#rotary) {
      this.#rotary.rotate(qkv, tokens, heads, headDim, start, 0, stride, query, this.#backend);
      this.#rotary.rotate(qkv, tokens, kvHeads, headDim, start, keyOffset, stride, undefined, this.#backend);
      return;
    }
    for (let token = 0; token < tokens; token++)
      query.set(qkv.subarray(token * stride, token * stride + keyOffset), token * keyOffset);
  }

  #activate(values: Float32Array): void {
    const { activation } = this.config.mlp;
    if (activation === 'silu') silu(values);
    else gelu(values, activation === 'gelu' ? 'exact' : 'tanh');
  }

  /** @param hidden [ids.length, hiddenSize] */
  #embed(ids: readonly number[], start: number, hidden: Float32Array): void {
    const { hiddenSize } = this.config;
    const { embedding, positions } = this.#weights;
    ids.forEach((id, token) => {
      const row = hidden.subarray(token * hiddenSize, (token + 1) * hiddenSize);
      row.set(embedding.subarray(id * hiddenSize, (id + 1) * hiddenSize));
      if (positions) {
        const from = (start + token) * hiddenSize;
        if (from + hiddenSize > positions.length) {
          throw new IntFlashError('ERR_SHAPE', `Expected at most ${this.config.maxPositions} tokens, got more`);
        }
        addTo(row, positions.subarray(from, from + hiddenSize));
      }
    });
  }

  async #logits(hidden: Float32Array, pace: Pace): Promise<Float32Array> {
    const tokens = hidden.length / this.config.hiddenSize;
    const logits = new Float32Array(tokens * this.config.vocabSize);
    await this.#projectNormed(this.#weights.outputNorm, this.#weights.output, hidden, tokens, logits, pace);
    return logits;
  }
}

function noTokens(): IntFlashError {
  return new IntFlashError('ERR_SHAPE', 'Expected at least one token, got none');
}
