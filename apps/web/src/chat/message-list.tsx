import { Markdown } from '../markdown/markdown';
import { CopyButton } from '../shell/copy-button';
import { Icon } from '../shell/icon';
import { AnswerFacts } from './answer-facts';
import type { AnswerMessage, Message } from './message';

interface Props {
  readonly messages: readonly Message[];
  readonly forgotten: number;
  readonly busy: boolean;
  readonly onRegenerate: () => void;
}

export function MessageList({ messages, forgotten, busy, onRegenerate }: Props) {
  return (
    <>
      <h1 class="visually-hidden">Conversation</h1>
      <ol class="messages">
        {messages.map((message, index) => (
          <li key={message.id} class={`message ${message.role}${index < forgotten ? ' forgotten' : ''}`}>
            {message.role === 'user' ? (
              <>
                <h2 class="visually-hidden">You said</h2>
                <p class="said">{message.text}</p>
              </>
            ) : (
              <Answer answer={message} {...(!busy && index === messages.length - 1 && { onRegenerate })} />
            )}
            {index === forgotten - 1 && (
              <p class="fold">The model no longer sees what is above: its context is full.</p>
            )}
          </li>
        ))}
      </ol>
    </>
  );
}

function Answer({ answer, onRegenerate }: { answer: AnswerMessage; onRegenerate?: () => void }) {
  const { text, state, problem } = answer;
  const ended = state === 'done' || state === 'stopped' || state === 'failed';
  return (
    <article aria-busy={!ended} data-state={state}>
      <h2 class="visually-hidden">The model said</h2>
      {state === 'waiting' && (
        <p class="waiting" aria-hidden="true">
          <i />
          <i />
          <i />
        </p>
      )}
      <Markdown text={text} />
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      <footer>
        <AnswerFacts answer={answer} />
        {ended && (
          <div class="actions">
            {text !== '' && <CopyButton text={text} what="answer" />}
            {onRegenerate && (
              <button type="button" class="quiet" aria-label="Answer again" title="Answer again" onClick={onRegenerate}>
                <Icon name="again" />
              </button>
            )}
          </div>
        )}
      </footer>
    </article>
  );
}
