import type { Backend } from '@int-flash/ops';
import type { Env, Hono } from 'hono';

export interface AttentionLabSettings {
  /** Asked for when a run begins, so that a server that never runs one starts no backend for it. */
  readonly backend: () => Backend;
}

/** Adds POST /api/attention-lab. */
export function mountAttentionLab<E extends Env>(_app: Hono<E>, _settings: AttentionLabSettings): void {}
