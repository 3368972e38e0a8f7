import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import { ChatView } from '../chat/chat-view';
import { LabView } from '../lab/lab-view';
import type { ServerClient } from '../server/server-client';
import { ServerError } from '../server/server-error';
import type { ServerStatus } from '../server/server-status';
import { KeyForm } from './key-form';
import { Tabs, useTab } from './tabs';
import { ThemeSwitch } from './theme-switch';

type Stage =
  | { readonly name: 'loading' }
  | { readonly name: 'key'; readonly refused: boolean }
  | { readonly name: 'unreachable'; readonly problem: string }
  | { readonly name: 'ready'; readonly status: ServerStatus };

export function App({ client }: { client: ServerClient }) {
  const [stage, setStage] = useState<Stage>({ name: 'loading' });
  const [tab, setTab] = useTab();
  const keyGiven = useRef(false);

  const connect = useCallback(async () => {
    try {
      setStage({ name: 'ready', status: await client.json<ServerStatus>('api/status') });
    } catch (error) {
      if (error instanceof ServerError && error.status === 401) return; // onKeyRefused has shown the form
      setStage({ name: 'unreachable', problem: error instanceof Error ? error.message : String(error) });
    }
  }, [client]);

  useEffect(() => {
    client.onKeyRefused = () => setStage({ name: 'key', refused: keyGiven.current });
    void connect();
  }, [client, connect]);

  return (
    <>
      <header class="top">
        <p class="brand">
          int<b>-</b>flash
        </p>
        {stage.name === 'ready' && <Tabs tab={tab} onChange={setTab} />}
        <div class="top-end">
          <ThemeSwitch />
        </div>
      </header>
      {stage.name === 'loading' && (
        <main class="notice" aria-busy="true">
          <p>Asking the server which model it has…</p>
        </main>
      )}
      {stage.name === 'key' && (
        <KeyForm
          refused={stage.refused}
          onKey={(key) => {
            keyGiven.current = true;
            client.useKey(key);
            void connect();
          }}
        />
      )}
      {stage.name === 'unreachable' && (
        <main class="notice">
          <h1>No answer</h1>
          <p role="alert">{stage.problem}</p>
          <button type="button" class="primary" onClick={() => void connect()}>
            Try again
          </button>
        </main>
      )}
      {stage.name === 'ready' && (
        <main>
          <div id="panel-chat" role="tabpanel" aria-labelledby="tab-chat" hidden={tab !== 'chat'}>
            <ChatView client={client} status={stage.status} />
          </div>
          <div id="panel-lab" role="tabpanel" aria-labelledby="tab-lab" hidden={tab !== 'lab'}>
            <LabView client={client} />
          </div>
        </main>
      )}
    </>
  );
}
