import { connect } from 'node:net';
import { CHAT } from '../test/serve-harness.js';

export interface ReadStream {
  readonly status: number;
  /** When each piece of the answer came, on the clock of `performance.now()`. */
  readonly times: readonly number[];
  /** As it came: with the lengths that HTTP puts between events. */
  readonly text: string;
  readonly isWhole: boolean;
}

/** Reads one streamed chat; notes when events came and does little else, since hundreds run in one process beside the server. */
export function readStream(port: number, body: unknown): Promise<ReadStream> {
  const payload = JSON.stringify(body);
  const head = [
    `POST ${CHAT} HTTP/1.1`,
    'host: localhost',
    'content-type: application/json',
    `content-length: ${Buffer.byteLength(payload)}`,
    'connection: close',
  ];
  return new Promise((resolve) => {
    const times: number[] = [];
    const chunks: Buffer[] = [];
    const socket = connect({ port, host: '127.0.0.1', noDelay: true });
    socket.on('data', (chunk) => {
      times.push(performance.now());
      chunks.push(chunk);
    });
    socket.on('error', () => {}); // `close` follows
    socket.on('close', () => {
      const text = Buffer.concat(chunks).toString();
      const status = Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? 0);
      resolve({ status, times, text, isWhole: text.includes('data: [DONE]') });
    });
    socket.write(`${head.join('\r\n')}\r\n\r\n${payload}`);
  });
}
