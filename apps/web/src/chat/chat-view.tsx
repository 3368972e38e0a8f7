import { useEffect, useRef, useState } from 'preact/hooks';
import type { ServerClient } from '../server/server-client';
import { backendInWords, type ServerStatus } from '../server/server-status';
import { Icon } from '../shell/icon';
import { Composer } from './composer';
import type { Message } from './message';
import { MessageList } from './message-list';
import { defaultSettings } from './sampling-settings';
import { SettingsDialog } from './settings-dialog';
import { useConversation } from './use-conversation';
import { useStickyEnd } from './use-sticky-end';
import { Welcome } from './welcome';

/** Hidden by its tab panel, not taken away, while another tab is shown: an answer goes on. */
export function ChatView({ client, status }: { client: ServerClient; status: ServerStatus }) {
  const defaults = defaultSettings(status);
  const [settings, setSettings] = useState(defaults);
  const [settingsOpen, setSettingsOpen] = useState(false);
  const conversation = useConversation(client, status, settings);
  const { messages, busy, stop } = conversation;
  const input = useRef<HTMLTextAreaElement>(null);
  const end = useStickyEnd(messages);

  useEffect(() => input.current?.focus(), []); // people come here to write
  useEffect(() => {
    if (!busy) return;
    const onKeyDown = (event: KeyboardEvent) => event.key === 'Escape' && !settingsOpen && stop();
    document.addEventListener('keydown', onKeyDown);
    return () => document.removeEventListener('keydown', onKeyDown);
  }, [busy, settingsOpen, stop]);

  const send = (text: string) => {
    conversation.send(text);
    input.current?.focus();
  };

  return (
    <div class="chat">
      <div class="talk">
        {messages.length === 0 ? (
          <Welcome status={status} onAsk={send} />
        ) : (
          <MessageList
            messages={messages}
            forgotten={conversation.forgotten}
            busy={busy}
            onRegenerate={() => {
              conversation.regenerate();
              input.current?.focus();
            }}
          />
        )}
        <div ref={end} />
      </div>
      <div class="desk">
        <Composer input={input} busy={busy} onSend={send} onStop={stop} />
        <div class="desk-line">
          <p class="answering">
            {status.model} · {status.precision} · {backendInWords(status)}{' '}
            <Context messages={messages} of={status.contextLength} />
          </p>
          <div class="actions">
            {messages.length > 0 && (
              <button type="button" class="quiet labelled" onClick={conversation.clear}>
                <Icon name="fresh" /> New chat
              </button>
            )}
            <button type="button" class="quiet labelled" onClick={() => setSettingsOpen(true)}>
              <Icon name="settings" /> Settings
            </button>
          </div>
        </div>
        <p class="visually-hidden" role="status">
          {announcement(messages)}
        </p>
      </div>
      {settingsOpen && (
        <SettingsDialog
          settings={settings}
          defaults={defaults}
          contextLength={status.contextLength}
          chatTemplate={status.chatTemplate}
          onSave={setSettings}
          onClose={() => setSettingsOpen(false)}
        />
      )}
    </div>
  );
}

/** How full the model's context was at the last answer. */
function Context({ messages, of }: { messages: readonly Message[]; of: number }) {
  const last = messages.findLast((message) => message.role === 'assistant' && message.pace.promptTokens !== undefined);
  if (last?.role !== 'assistant') return null;
  const used = last.pace.promptTokens! + last.pace.tokens;
  return (
    <span class="context">
      · <meter min={0} max={of} value={used} aria-label="Context in use" /> {Math.round((100 * used) / of)}% of its
      context
    </span>
  );
}

/** A screen reader hears an answer once, when it is whole, and not token by token. */
function announcement(messages: readonly Message[]): string {
  const last = messages.at(-1);
  if (last?.role !== 'assistant') return '';
  if (last.state === 'waiting' || last.state === 'streaming') return 'The model is answering.';
  if (last.state === 'failed') return ''; // the alert says it
  return `${last.state === 'stopped' ? 'Stopped. ' : ''}The model said: ${last.text}`;
}
