import type { RefObject, TargetedKeyboardEvent } from 'preact';
import { useLayoutEffect, useState } from 'preact/hooks';
import { Icon } from '../shell/icon';

interface Props {
  readonly input: RefObject<HTMLTextAreaElement | null>;
  readonly busy: boolean;
  readonly onSend: (text: string) => void;
  readonly onStop: () => void;
}

const MAX_HEIGHT = 220; // px: ten lines, then it scrolls

/** Enter sends, Shift+Enter breaks the line, Escape stops the answer. */
export function Composer({ input, busy, onSend, onStop }: Props) {
  const [text, setText] = useState('');

  useLayoutEffect(() => {
    const area = input.current!;
    area.style.height = 'auto';
    area.style.height = `${Math.min(area.scrollHeight, MAX_HEIGHT)}px`;
  }, [input, text]);

  const send = () => {
    if (busy || text.trim() === '') return;
    onSend(text.trim());
    setText('');
  };
  const onKeyDown = (event: TargetedKeyboardEvent<HTMLTextAreaElement>) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return; // Enter also ends an input method's word
    event.preventDefault();
    send();
  };

  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <label class="visually-hidden" for="message">
        Message
      </label>
      <textarea
        id="message"
        ref={input}
        rows={1}
        value={text}
        placeholder="Say something"
        autocomplete="off"
        aria-describedby="composer-keys"
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      {busy ? (
        // Keys, so that a click on one is over before the other is there: one element turned into the other would act on it too.
        <button key="stop" type="button" class="round" aria-label="Stop the answer" title="Stop (Esc)" onClick={onStop}>
          <Icon name="stop" />
        </button>
      ) : (
        <button
          key="send"
          type="submit"
          class="round"
          aria-label="Send"
          title="Send (Enter)"
          disabled={text.trim() === ''}
        >
          <Icon name="send" />
        </button>
      )}
      <p id="composer-keys" class="visually-hidden">
        Enter sends, Shift and Enter start a new line, Escape stops an answer.
      </p>
    </form>
  );
}
