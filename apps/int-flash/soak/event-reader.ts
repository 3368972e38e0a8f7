import { request } from 'node:http';
import { CHAT } from '../test/serve-harness.js';

export interface ReadStream {
  readonly status: number;
  /** When each event came, on the clock of `performance.now()`. */
  readonly times: readonly number[];
  readonly text: string;
  readonly isWhole: boolean;
}

/** Reads one streamed chat; notes when events came and does little else, since hundreds run in one process. */
export function readStream(port: number, body: unknown): Promise<ReadStream> {
  const payload = JSON.stringify(body);
  return new Promise((resolve) => {
    const times: number[] = [];
    const chunks: string[] = [];
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) };
    const outgoing = request(
      { port, host: '127.0.0.1', path: CHAT, method: 'POST', headers, agent: false },
      (response) => {
        response.setEncoding('utf8').on('data', (chunk: string) => {
          times.push(performance.now());
          chunks.push(chunk);
        });
        response.on('close', () => {
          const text = chunks.join('');
          resolve({ status: response.statusCode!, times, text, isWhole: text.includes('data: [DONE]') });
        });
        response.on('error', () => {});
      },
    );
    outgoing.on('error', () => resolve({ status: 0, times, text: '', isWhole: false }));
    outgoing.end(payload);
  });
}
