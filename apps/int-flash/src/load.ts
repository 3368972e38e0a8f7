import type { App } from './app.js';
import { findModel } from './model-folder.js';
import { type CacheOptions, cacheSettings, computeSettings, type ModelOptions } from './options.js';
import { withProgressBar } from './progress-bar.js';
import type { Model } from './runtime.js';

export interface LoadedModel {
  readonly model: Model;
  readonly loadMs: number;
}

/** Loads the model that the options name, with a bar on stderr meanwhile. The caller disposes it. */
export async function loadModel(
  app: App,
  options: ModelOptions & CacheOptions,
  signal: AbortSignal,
): Promise<LoadedModel> {
  const folder = findModel(options.model, app.env);
  const chosen = { ...computeSettings(options), ...cacheSettings(options) };
  const started = performance.now();
  const quiet = options.quiet === true || options.json === true;
  const model = await withProgressBar(app.terminal, 'loading', quiet, (onProgress) =>
    app.runtime.loadModel(folder, { ...chosen, onProgress, signal }),
  );
  return { model, loadMs: performance.now() - started };
}

/** Loads a model, hands it to `work`, and disposes it whatever happens. */
export async function withModel<T>(
  app: App,
  options: ModelOptions & CacheOptions,
  signal: AbortSignal,
  work: (loaded: LoadedModel) => Promise<T>,
): Promise<T> {
  const loaded = await loadModel(app, options, signal);
  try {
    return await work(loaded);
  } finally {
    await loaded.model.dispose();
  }
}
