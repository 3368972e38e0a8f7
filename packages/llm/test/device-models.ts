import { selectBackend } from '@int-flash/attention';
import { afterEach, beforeEach, expect } from 'vitest';
import { KvCaches } from '../src/kv-caches.js';
import { LanguageModel } from '../src/language-model.js';
import { parseModelConfig } from '../src/model-config.js';
import { loadWeights, type ModelWeights } from '../src/model-weights.js';
import { randomModelFiles } from '../src/random-model.js';
import { FakeDevice } from './fake-device.js';
import { answer, type Request } from './requests.js';
import { TINY_SHAPE } from './tiny-model.js';

export const CONFIG = parseModelConfig(TINY_SHAPE);
/** For contexts of 140,000 tokens: beyond what a call takes as arguments, and some pages more than a thousand. */
export const LONG_SHAPE = { ...TINY_SHAPE, max_position_embeddings: 140_000 };
export const PAGE_BYTES = 1000; // fake-device.ts, INT8
export const GREEDY = { temperature: 0, ignoreEos: true } as const;

const host = selectBackend('portable');

/** Models on a device of which nothing is held after a test, for all tests of a file. */
export class DeviceModels {
  device!: FakeDevice;
  weights!: ModelWeights;

  readonly #shape: typeof TINY_SHAPE;

  constructor(shape = TINY_SHAPE) {
    this.#shape = shape;
    beforeEach(async () => {
      this.device = new FakeDevice(host);
      this.weights = await loadWeights(randomModelFiles(shape).weights, host, 'fp32');
    });
    afterEach(() => {
      const { live, sequences, kept, decoders } = this.device;
      expect({ live, sequences, kept, decoders }).toEqual({ live: 0, sequences: 0, kept: 0, decoders: 0 });
    });
  }

  /** One whose cache holds so many pages of INT8. */
  async model(pages?: number, keepsPrefixes = true): Promise<LanguageModel> {
    const backend = this.device.backend();
    const files = randomModelFiles(this.#shape);
    const config = parseModelConfig(this.#shape);
    const bytes = pages === undefined ? undefined : pages * PAGE_BYTES + 10;
    return new LanguageModel({
      config,
      generation: {},
      tokenizer: await files.readTokenizer(),
      weights: this.weights,
      backend,
      caches: new KvCaches(config, { bytes, keepsPrefixes }, backend),
      attention: 'int8',
      kvCacheDtype: 'int8',
      linear: 'auto',
    });
  }

  /** As each would be answered with the device to itself, nothing kept from others and nothing guessed. */
  async alone(requests: readonly Request[]): Promise<string[]> {
    await using roomy = await this.model(Math.ceil(this.#shape.max_position_embeddings / 64) + 1000, false);
    const told: string[] = [];
    for (const { prompt, options } of requests)
      told.push(await answer(roomy, { prompt, options: { ...options, speculate: 0 } }));
    expect(roomy.status()).toMatchObject({ prefixes: { found: 0 }, pages: { kept: 0 } });
    expect(roomy.status().preemptions).toBe(0);
    return told;
  }
}
