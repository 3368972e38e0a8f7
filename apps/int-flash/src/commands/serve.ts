import { isIP } from 'node:net';
import { type Command, InvalidArgumentError } from 'commander';
import type { App } from '../app.js';
import { UsageError } from '../failures.js';
import { findModel } from '../model-folder.js';
import {
  type CacheOptions,
  integer,
  type ModelOptions,
  number,
  path,
  speculateOption,
  withCacheOptions,
  withModelOptions,
} from '../options.js';

export interface ServeOptions extends ModelOptions, CacheOptions {
  readonly host: string;
  readonly port: number;
  readonly apiKey?: string | undefined;
  readonly allowedHost?: readonly string[];
  readonly maxRunning: number;
  readonly maxWaiting: number;
  readonly drain: number;
  readonly context?: number;
  readonly speculate?: number;
}

/** A name or an address as it stands in a Host header, without scheme and port. */
function hosts(text: string, earlier: readonly string[] = []): string[] {
  if (!/^[\w.-]+$/.test(text) && isIP(text) === 0) {
    throw new InvalidArgumentError('Expected a name without scheme and port, such as chat.example.');
  }
  return [...earlier, text];
}

/** Where to listen; an empty text would be every interface. */
function host(text: string): string {
  if (text === '') throw new InvalidArgumentError('Expected a name or an address.');
  return text;
}

export function addServe(program: Command, app: App): void {
  const command = program
    .command('serve')
    .description('an OpenAI-compatible server, and a chat page')
    .argument(
      '[model]',
      'folder in Hugging Face format, or a GGUF file (default: INT_FLASH_MODEL, else the demo model)',
      path,
    )
    .option('--host <address>', 'where to listen; other than loopback needs a key', host, '127.0.0.1')
    .option('--port <n>', '0 takes any free one', integer(0, 65535), 8080)
    .option('--api-key <key>', 'what clients must send (default: INT_FLASH_API_KEY, which `ps` does not show)')
    .option(
      '--allowed-host <name>',
      'a further name that requests may be addressed to; may be given several times',
      hosts,
    )
    .option('--context <n>', 'tokens of prompt and answer together (default: what the model can)', integer(2, 2 ** 24))
    .option('--max-running <n>', 'sequences drawn at once', integer(1, 1024), 64)
    .option('--max-waiting <n>', 'requests that may queue behind them', integer(0, 1024), 64)
    .option('--drain <seconds>', 'what requests under way get at the end', number(0, 3600), 30);
  withCacheOptions(withModelOptions(command))
    .addOption(speculateOption())
    .action(async (folder: string | undefined, options: ServeOptions) => {
      if (folder !== undefined && options.model !== undefined) {
        throw new UsageError('Expected the model once, got an argument and --model');
      }
      if (options.apiKey === '')
        throw new UsageError('Expected an API key of at least one character, got an empty one');
      const model = findModel(folder ?? options.model, app.env);
      const apiKey = options.apiKey ?? (app.env.INT_FLASH_API_KEY || undefined);
      if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(apiKey)) {
        throw new UsageError(
          'Expected an API key of ASCII letters, digits and punctuation, got one with others in it',
          'Clients send it in a header, which cannot carry every character.',
        );
      }
      const { serve } = await import('../serve/serve.js'); // its libraries are nothing the other commands should wait for
      await serve(app, model, { ...options, apiKey });
    });
}
