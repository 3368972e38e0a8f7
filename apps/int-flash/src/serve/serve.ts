import type { App } from '../app.js';
import type { ServeOptions } from '../commands/serve.js';
import { UsageError } from '../failures.js';
import { cacheSettings, computeSettings } from '../options.js';
import { withProgressBar } from '../progress-bar.js';
import { stoppable } from '../stoppable.js';
import { isLoopback } from './guards.js';
import { startHttpServer } from './http-server.js';
import { SERVE_DEFAULTS, type ServeSettings } from './serve-settings.js';
import { ServeState } from './serve-state.js';
import { untilStopped } from './until-stopped.js';
import { loadWebPage } from './web-page.js';

/**
 * Serves until SIGINT or SIGTERM, then drains; a second signal leaves at once.
 *
 * The port is open while the model loads, so that `/health` can say so.
 *
 * @param onReady Called once requests are answered.
 */
export async function serve(
  app: App,
  folder: string,
  options: ServeOptions,
  onReady: (url: string) => void = () => {},
): Promise<void> {
  const { terminal } = app;
  const settings = settingsOf(options);
  if (!isLoopback(settings.host) && settings.apiKey === undefined) {
    throw new UsageError(
      `Expected an API key to listen on ${settings.host}, got none`,
      'Set INT_FLASH_API_KEY, or listen on 127.0.0.1.',
    );
  }
  const report = (error: unknown) => {
    const { name, code } = error as { name?: unknown; code?: unknown };
    const stack = app.env.INT_FLASH_DEBUG && error instanceof Error ? `\n${error.stack}` : '';
    terminal.note(`a request failed: ${String(name)} ${String(code ?? '')}${stack}`); // messages may hold what a client sent
  };
  const state = new ServeState(settings, report);
  state.metrics.addProcessMetrics();
  const server = await startHttpServer(state, loadWebPage());
  try {
    const quiet = options.quiet === true || options.json === true;
    const engine = await stoppable(terminal, (signal) =>
      withProgressBar(terminal, 'loading', quiet, (onProgress) => {
        const { context: contextLength, speculate } = options;
        const wanted = { ...computeSettings(options), ...cacheSettings(options), onProgress, signal };
        return app.runtime.loadEngine(folder, wanted, { contextLength, speculate });
      }),
    );
    try {
      const { context } = options;
      if (context !== undefined && context > engine.contextLength) {
        throw new UsageError(
          `Expected a context of at most the model's ${engine.contextLength} tokens, got ${context}`,
        );
      }
      state.start(engine);
      const stopped = untilStopped(state); // listens for signals before anybody can know that there is something to stop
      stopped.catch(() => {}); // judged below
      if (options.json) await terminal.writeLine(JSON.stringify({ url: server.url, model: engine.name }));
      else await terminal.writeLine(`${engine.name} on ${engine.facts.backend.name}: ${server.url}`);
      if (!quiet)
        terminal.note(
          terminal.notePaint.dim(`API: ${server.url}/v1, a context of ${engine.contextLength} tokens, Ctrl-C ends`),
        );
      onReady(server.url);
      await stopped;
      if (!quiet && state.requestsUnderWay > 0) {
        terminal.note(terminal.notePaint.dim(`finishing ${state.requestsUnderWay}; Ctrl-C again leaves at once`));
      }
    } finally {
      await server.close(settings.drainMs);
      await engine.dispose();
    }
  } finally {
    await server.close(0);
  }
}

function settingsOf(options: ServeOptions): ServeSettings {
  const { host, port, apiKey, allowedHost = [], maxRunning, maxWaiting, drain } = options;
  return {
    ...SERVE_DEFAULTS,
    host,
    port,
    apiKey,
    allowedHosts: allowedHost,
    maxRunning,
    maxWaiting,
    drainMs: drain * 1000,
  };
}
