import { logSumExp } from './sampler.js';
import { Session, type SessionOwner, type SessionSettings } from './session.js';

export interface Perplexity {
  /** e^natsPerToken */
  readonly perplexity: number;
  readonly natsPerToken: number;
  /** Tokens read … */
  readonly tokens: number;
  /** … and predicted: all but the first of each window. */
  readonly predicted: number;
  /** `[predicted]`: −ln p of each, in order. */
  readonly nats: Float64Array;
}

/**
 * How well a model predicts a text: the text is cut into consecutive windows, each read by itself, the last one perhaps shorter.
 *
 * @param ids    Two or more.
 * @param window Tokens, 2 to the model's maximum.
 */
export async function measurePerplexity(
  owner: SessionOwner,
  ids: readonly number[],
  window: number,
  settings: SessionSettings,
  onProgress: (fraction: number) => void = () => {},
): Promise<Perplexity> {
  const { vocabSize } = owner.transformer.config;
  const nats: number[] = [];
  for (let start = 0; start < ids.length; start += window) {
    const part = ids.slice(start, start + window);
    const session = new Session(owner, settings);
    try {
      await session.forward(part, (logits, first) => {
        const rows = logits.length / vocabSize;
        for (let row = 0; row < rows; row++) {
          const target = part[first + row + 1];
          if (target === undefined) continue;
          const scores = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
          nats.push(logSumExp(scores) - scores[target]!);
        }
        onProgress(Math.min((start + first + rows) / ids.length, 1));
      });
    } finally {
      await session.close();
    }
  }
  const natsPerToken = nats.reduce((sum, value) => sum + value, 0) / nats.length;
  return {
    perplexity: Math.exp(natsPerToken),
    natsPerToken,
    tokens: ids.length,
    predicted: nats.length,
    nats: Float64Array.from(nats),
  };
}
