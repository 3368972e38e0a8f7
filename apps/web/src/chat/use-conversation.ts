import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import type { ServerClient } from '../server/server-client';
import { ServerError } from '../server/server-error';
import type { ServerStatus } from '../server/server-status';
import type { AnswerMessage, Message } from './message';
import type { SamplingSettings } from './sampling-settings';
import { streamAnswer } from './stream-answer';

const REDRAW_MS = 33; // thirty times a second: tokens come faster than anyone reads

export interface Conversation {
  readonly messages: readonly Message[];
  /** So many messages at the start no longer fit into the model's context and are not sent. */
  readonly forgotten: number;
  readonly busy: boolean;
  send(text: string): void;
  stop(): void;
  /** Asks once more for the last answer. */
  regenerate(): void;
  clear(): void;
}

/** The conversation, kept in this page's memory and nowhere else. */
export function useConversation(client: ServerClient, status: ServerStatus, settings: SamplingSettings): Conversation {
  const [messages, setMessages] = useState<readonly Message[]>([]);
  const [forgotten, setForgotten] = useState(0);
  const [busy, setBusy] = useState(false);
  const running = useRef<AbortController>(undefined);
  const nextId = useRef(1);

  const answer = useCallback(
    async (asked: readonly Message[], firstSent: number) => {
      const controller = new AbortController();
      running.current = controller;
      let current: AnswerMessage = {
        id: nextId.current++,
        role: 'assistant',
        text: '',
        state: 'waiting',
        pace: { tokens: 0 },
      };
      const show = (change: Partial<AnswerMessage>) => {
        current = { ...current, ...change };
        if (running.current === controller) setMessages([...asked, current]);
      };
      setBusy(true);
      show({});
      let from = firstSent;
      for (;;) {
        let latest: Partial<AnswerMessage> = {}; // what has come, drawn or not yet
        try {
          let drawn = 0;
          for await (const { text, pace } of streamAnswer(
            client,
            asked.slice(from),
            settings,
            status.chatTemplate,
            controller.signal,
          )) {
            latest = { text, pace, state: text === '' ? 'waiting' : 'streaming' };
            if (performance.now() - drawn < REDRAW_MS) continue;
            drawn = performance.now();
            show(latest);
          }
          show({ ...latest, state: 'done' });
        } catch (error) {
          if (isTooLong(error) && from + 2 < asked.length) {
            from += 2; // the oldest question and its answer
            continue;
          }
          if (controller.signal.aborted) show({ ...latest, state: 'stopped' });
          else show({ ...latest, state: 'failed', problem: problemInWords(error) });
        }
        break;
      }
      if (running.current !== controller) return;
      running.current = undefined;
      setForgotten(from);
      setBusy(false);
    },
    [client, settings, status.chatTemplate],
  );

  const stop = useCallback(() => running.current?.abort(), []);
  useEffect(() => stop, [stop]);

  return {
    messages,
    forgotten,
    busy,
    stop,
    send: (text) => {
      if (!busy) void answer([...messages, { id: nextId.current++, role: 'user', text }], forgotten);
    },
    regenerate: () => {
      const last = messages.findLastIndex(({ role }) => role === 'user');
      if (!busy && last >= 0) void answer(messages.slice(0, last + 1), Math.min(forgotten, last));
    },
    clear: () => {
      running.current?.abort();
      running.current = undefined;
      setBusy(false);
      setMessages([]);
      setForgotten(0);
    },
  };
}

function isTooLong(error: unknown): boolean {
  return error instanceof ServerError && error.code === 'context_length_exceeded';
}

function problemInWords(error: unknown): string {
  if (!(error instanceof ServerError)) return 'The page failed to read the answer.';
  const wait = error.retryAfterSeconds === undefined ? '' : ` Try again in ${error.retryAfterSeconds} s.`;
  return `${error.message}${wait}`;
}
