import { once } from 'node:events';
import type { Readable, Writable } from 'node:stream';
import { styleText } from 'node:util';

/** The parts of a stream that say whether a person is looking at it. */
interface Screen {
  readonly isTTY?: boolean;
  readonly columns?: number;
}

export interface TerminalStreams {
  readonly stdin: Readable & Screen;
  readonly stdout: Writable & Screen;
  readonly stderr: Writable & Screen;
}

const STYLES = ['bold', 'dim', 'red', 'green', 'yellow', 'cyan'] as const;
export type Paint = Readonly<Record<(typeof STYLES)[number], (text: string) => string>>;

/** Where a command writes: what was asked for goes to stdout, everything about it to stderr. */
export class Terminal {
  readonly stdin: Readable & Screen;
  readonly stdout: Writable & Screen;
  readonly stderr: Writable & Screen;
  /** Colours for stdout and stderr; each is plain when that stream is no terminal or NO_COLOR is set. */
  readonly paint: Paint;
  readonly notePaint: Paint;
  /** Aborts with the error when stdout takes no more: its reader has gone, as in `| head`, or its disk is full. */
  readonly closed: AbortSignal;

  constructor(streams: TerminalStreams, env: NodeJS.ProcessEnv = {}) {
    this.stdin = streams.stdin;
    this.stdout = streams.stdout;
    this.stderr = streams.stderr;
    this.paint = paintFor(wantsColor(streams.stdout, env));
    this.notePaint = paintFor(wantsColor(streams.stderr, env));
    const controller = new AbortController();
    this.closed = controller.signal;
    streams.stdout.on('error', (error) => controller.abort(error));
    streams.stderr.on('error', () => {}); // nobody is left to tell
  }

  /** Columns to lay text out in: what the terminal has, at most 100; 80 where nobody looks or it says 0, as some containers' do. */
  get columns(): number {
    return Math.min(this.stdout.columns || 80, 100);
  }

  /** Writes to stdout and waits while its reader is slower than the model. */
  async write(text: string): Promise<void> {
    if (this.closed.aborted || this.stdout.write(text)) return;
    await once(this.stdout, 'drain', { signal: this.closed }).catch(() => {}); // closed: the work is being stopped anyway
  }

  /** Resolves when stdout has taken all that was written, or never will. */
  async flushed(): Promise<void> {
    if (this.closed.aborted) return;
    await new Promise<void>((resolve) => {
      this.closed.addEventListener('abort', () => resolve(), { once: true });
      this.stdout.write('', () => setImmediate(resolve)); // an error is told a moment after the callback
    });
  }

  async writeLine(text = ''): Promise<void> {
    await this.write(`${text}\n`);
  }

  /** One line about the work, to stderr. */
  note(text: string): void {
    this.stderr.write(`${text}\n`);
  }
}

function paintFor(colored: boolean): Paint {
  const painter = (style: (typeof STYLES)[number]) => (text: string) =>
    colored ? styleText(style, text, { validateStream: false }) : text; // newer Nodes would ask their own stdout
  return Object.fromEntries(STYLES.map((style) => [style, painter(style)])) as unknown as Paint;
}

function wantsColor(stream: Screen, env: NodeJS.ProcessEnv): boolean {
  if (env.NO_COLOR) return false;
  if (env.FORCE_COLOR) return env.FORCE_COLOR !== '0';
  return stream.isTTY === true && env.TERM !== 'dumb';
}

/**
 * Makes text from a file or a model harmless to a terminal: control characters, which could move the cursor or rename
 * the window, become U+FFFD. Line feeds and tabs stay.
 */
export function withoutControls(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this looks for
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, '\ufffd');
}

/**
 * A name from a file, or what somebody else said, on a line of its own or in a table: neither a line feed or tab, nor a mark that turns the
 * direction of writing, which could show it as another name, is left in it.
 */
export function onOneLine(text: string): string {
  return withoutControls(text).replace(/[\n\t\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, '\ufffd');
}
