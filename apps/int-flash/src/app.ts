import type { Runtime } from './runtime.js';
import type { Terminal } from './terminal.js';

/** What a command works with; the process supplies the real ones, tests supply their own. */
export interface App {
  readonly terminal: Terminal;
  readonly runtime: Runtime;
  readonly env: NodeJS.ProcessEnv;
}
