import { Agent } from 'node:http';
import { type AskOptions, ask, type Reply } from '../test/serve-harness.js';

const AT_ONCE = 32;

export interface FloodRequest extends AskOptions {
  readonly path: string;
}

/** Sends many requests over connections that stay open; `onReply` is told each answer, undefined where there came none. */
export async function flood<R extends FloodRequest>(
  server: { readonly port: number },
  requests: Iterable<R>,
  onReply: (reply: Reply | undefined, request: R) => void,
): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });
  const left = requests[Symbol.iterator]();
  const work = async () => {
    for (let next = left.next(); !next.done; next = left.next()) {
      const reply = await ask(server, next.value.path, { agent, ...next.value }).catch(() => undefined);
      onReply(reply, next.value);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  agent.destroy();
}

/** `count` values, each made of a number that counts them. */
export function* times<T>(count: number, make: (i: number) => T): Generator<T, void> {
  for (let i = 0; i < count; i++) yield make(i);
}

/** One of these, at random. */
export function anyOf<T>(values: readonly T[]): T {
  return values[Math.floor(Math.random() * values.length)]!;
}

/** So many random letters and digits. */
export function randomWord(length: number): string {
  return Array.from({ length }, () => Math.floor(Math.random() * 36).toString(36)).join('');
}
