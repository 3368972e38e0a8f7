import { EventSourceParserStream } from 'eventsource-parser/stream';
import { errorIn, ServerError } from './server-error';

/** Talks with the server that this page came from, and with no other. The API key lives here, in memory. */
export class ServerClient {
  /** Called when the server wants a key, or another one. */
  onKeyRefused: () => void = () => {};
  #key: string | undefined;

  useKey(key: string): void {
    this.#key = key;
  }

  async json<T>(path: string, signal?: AbortSignal): Promise<T> {
    const response = await this.#request(path, undefined, signal);
    return (await response.json()) as T;
  }

  /**
   * Posts `body` and yields each event's data, parsed; ends at `[DONE]` or at the end of the stream.
   *
   * @throws {ServerError} for an error body, and for an error event in the stream.
   */
  async *events<T>(path: string, body: unknown, signal: AbortSignal): AsyncGenerator<T> {
    const response = await this.#request(path, body, signal);
    const events = response.body!.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
    const reader = events.getReader(); // Safari's streams are not async iterable
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done || value.data === '[DONE]') return;
        const data = JSON.parse(value.data) as T;
        const error = errorIn(data, 0);
        if (error) throw error;
        yield data;
      }
    } catch (error) {
      if (signal.aborted || error instanceof ServerError) throw error;
      throw new ServerError('The answer broke off: the connection to the server was lost.', 0);
    } finally {
      reader.cancel().catch(() => {}); // tells the server to stop; a stream that failed has nothing left to tell
    }
  }

  async #request(path: string, body: unknown, signal: AbortSignal | undefined): Promise<Response> {
    const headers: Record<string, string> = {};
    if (body !== undefined) headers['content-type'] = 'application/json';
    if (this.#key !== undefined) headers.authorization = `Bearer ${this.#key}`;
    let response: Response;
    try {
      response = await fetch(path, {
        method: body === undefined ? 'GET' : 'POST',
        headers,
        ...(body !== undefined && { body: JSON.stringify(body) }),
        ...(signal && { signal }),
        cache: 'no-store',
        redirect: 'error',
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ServerError('The server does not answer. Is it still running?', 0);
    }
    if (response.ok) return response;
    if (response.status === 401) this.onKeyRefused();
    const said = await response.json().catch(() => undefined);
    throw (
      errorIn(said, response.status, response.headers.get('retry-after')) ??
      new ServerError(`The server answered with status ${response.status}.`, response.status)
    );
  }
}
