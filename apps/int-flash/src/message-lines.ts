import { createInterface } from 'node:readline';
import { EXIT, Stopped } from './failures.js';
import type { Terminal } from './terminal.js';

/**
 * What the user says, one message at a time, until the end of input. At a terminal the line editor only lives while it is
 * waited for: in between the terminal is in its normal mode, so that Ctrl-C is a signal and can stop an answer.
 *
 * @throws {Stopped} on Ctrl-C at the prompt.
 */
export async function* messageLines(terminal: Terminal): AsyncGenerator<string> {
  if (!terminal.stdin.isTTY) {
    yield* createInterface({ input: terminal.stdin, crlfDelay: Number.POSITIVE_INFINITY });
    return;
  }
  let history: string[] = [];
  for (;;) {
    const message = await editedMessage(terminal, history, (lines) => {
      history = lines;
    });
    if (message === undefined) return;
    yield message;
  }
}

/** One message from the line editor; several lines pasted at once are one message. Undefined at the end of input. */
function editedMessage(
  terminal: Terminal,
  history: string[],
  onHistory: (lines: string[]) => void,
): Promise<string | undefined> {
  const { bold, cyan } = terminal.notePaint;
  const editor = createInterface({
    input: terminal.stdin,
    output: terminal.stderr, // stdout holds the answers and nothing else
    terminal: true,
    history: [...history],
    prompt: `${bold(cyan('you'))} › `,
  });
  return new Promise((resolve, reject) => {
    const lines: string[] = [];
    let settled = false;
    const settle = (how: () => void) => {
      if (settled) return;
      settled = true;
      editor.close(); // emits `close` itself, and only its own listeners give the terminal back
      how();
    };
    editor.on('history', onHistory);
    editor.on('line', (line) => {
      lines.push(line);
      if (lines.length === 1) setImmediate(() => settle(() => resolve(lines.join('\n'))));
    });
    editor.on('close', () => {
      if (settled) return;
      terminal.note('');
      settle(() => resolve(lines.length > 0 ? lines.join('\n') : undefined));
    });
    editor.on('SIGINT', () => settle(() => reject(new Stopped(EXIT.interrupted))));
    editor.prompt();
  });
}
