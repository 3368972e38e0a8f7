import { Admission } from './admission.js';
import { unavailable } from './api-error.js';
import type { Engine, EngineCache } from './engine.js';
import { IncomingBodies } from './request-body.js';
import { ServeMetrics } from './serve-metrics.js';
import type { ServeSettings } from './serve-settings.js';
import { TurnTaking } from './turn-taking.js';

export type ServePhase = 'loading' | 'ready' | 'draining' | 'failed';

/** What the routes share: the model once it is there, who may run, and what is under way. */
export class ServeState {
  readonly settings: ServeSettings;
  readonly admission: Admission;
  readonly metrics = new ServeMetrics();
  readonly bodies = new IncomingBodies();
  /** Where requests that arrived together take turns to be judged. */
  readonly turns = new TurnTaking();
  /** Told of failures that are the server's own. */
  readonly report: (error: unknown) => void;
  /** Called once when the engine can never answer again. */
  onFatal: (error: unknown) => void = () => {};
  readonly #underWay = new Set<AbortController>();
  #engine: Engine | undefined;
  #phase: ServePhase = 'loading';
  #onIdle: (() => void) | undefined;

  constructor(settings: ServeSettings, report: (error: unknown) => void) {
    this.settings = settings;
    this.report = report;
    this.admission = new Admission(settings);
    this.metrics.gauges({
      running_sequences: { help: 'Sequences being drawn.', value: () => this.admission.running },
      waiting_requests: { help: 'Requests waiting for their turn.', value: () => this.admission.waiting },
      kv_cache_bytes: { help: 'Bytes of KV caches.', value: () => this.#engine?.held().kvCacheBytes ?? 0 },
      kv_cache_sequences: { help: 'Sequences with a KV cache.', value: () => this.#engine?.held().sequences ?? 0 },
      kv_cache_pages: { help: 'Pages of the KV cache, of 64 tokens.', value: () => this.#ofCache('pages') },
      kv_cache_pages_used: { help: 'Those that sequences hold.', value: () => this.#ofCache('usedPages') },
      kv_cache_pages_kept: {
        help: 'Those kept for prompts that begin alike, and given away when there is nothing free.',
        value: () => this.#ofCache('keptPages'),
      },
    });
    this.metrics.totals({
      prefix_cache_tokens: { help: 'Prompt tokens looked for.', value: () => this.#ofCache('promptTokens') },
      prefix_cache_hit_tokens: {
        help: 'Those that an earlier prompt had computed.',
        value: () => this.#ofCache('foundTokens'),
      },
      preemptions: {
        help: 'How often pages of a sequence were taken for another, to be computed again.',
        value: () => this.#ofCache('preemptions'),
      },
    });
  }

  #ofCache(what: keyof EngineCache): number {
    return this.#engine?.cache()[what] ?? 0;
  }

  get phase(): ServePhase {
    return this.#phase;
  }

  get requestsUnderWay(): number {
    return this.#underWay.size;
  }

  /** @throws {ApiError} 503 while there is no model to ask, or no more. */
  get engine(): Engine {
    this.expectOpen();
    if (!this.#engine) throw unavailable('The model is still loading.', 'loading', 2);
    return this.#engine;
  }

  /** @throws {ApiError} 503 unless new work may start. */
  expectOpen(): void {
    if (this.#phase === 'draining') throw unavailable('The server is shutting down.', 'shutting_down');
    if (this.#phase === 'failed') throw unavailable('The device that computes was lost.', 'device_lost');
  }

  start(engine: Engine): void {
    this.#engine = engine;
    if (this.#phase === 'loading') this.#phase = 'ready';
  }

  fail(error: unknown): void {
    if (this.#phase === 'failed') return;
    this.#phase = 'failed';
    this.onFatal(error);
  }

  /** Counts a request as under way; the controller is aborted when the time to drain is over. */
  begin(controller: AbortController): () => void {
    this.#underWay.add(controller);
    return () => {
      this.#underWay.delete(controller);
      if (this.#underWay.size === 0) this.#onIdle?.();
    };
  }

  /** Takes no more requests, and waits for those under way; when time is up they end with an error. */
  async drain(ms: number): Promise<void> {
    if (this.#phase !== 'failed') this.#phase = 'draining';
    this.admission.close();
    if (this.#underWay.size === 0) return;
    const idle = new Promise<void>((resolve) => {
      this.#onIdle = resolve;
    });
    const reason = unavailable('The server is shutting down.', 'shutting_down');
    const timer = setTimeout(() => {
      for (const controller of this.#underWay) controller.abort(reason);
    }, ms);
    await idle;
    clearTimeout(timer);
  }
}
