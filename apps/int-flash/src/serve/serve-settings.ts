/** How a server behaves; the defaults are the ones that RELIABILITY promises. */
export interface ServeSettings {
  readonly host: string;
  readonly port: number;
  /** Undefined: everybody who can reach the port may use it, so the host must be a loopback one. */
  readonly apiKey: string | undefined;
  /** Host names beside the loopback ones and `host` that requests may be addressed to. */
  readonly allowedHosts: readonly string[];
  readonly maxRunning: number;
  readonly maxWaiting: number;
  readonly waitMs: number;
  /** What requests under way get when the server is asked to end. */
  readonly drainMs: number;
  /** A reader that takes nothing for so long is cut off. */
  readonly slowReaderMs: number;
  readonly headersTimeoutMs: number;
  readonly bodyTimeoutMs: number;
  readonly maxConnections: number;
}

export const SERVE_DEFAULTS: ServeSettings = {
  host: '127.0.0.1',
  port: 8080,
  apiKey: undefined,
  allowedHosts: [],
  maxRunning: 64,
  maxWaiting: 64,
  waitMs: 60_000,
  drainMs: 30_000,
  slowReaderMs: 30_000,
  headersTimeoutMs: 10_000,
  bodyTimeoutMs: 30_000,
  maxConnections: 1024,
};
