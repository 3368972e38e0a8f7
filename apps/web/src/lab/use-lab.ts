import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import type { ServerClient } from '../server/server-client';
import type { LabBegin, LabEvent, LabRequest, LabResult } from './lab-request';

export interface LabRun {
  readonly request: LabRequest;
  readonly begin?: LabBegin;
  readonly results: readonly LabResult[];
  /** What this backend does not compute. */
  readonly unavailable: readonly { readonly variant: string; readonly why: string }[];
  readonly state: 'running' | 'done' | 'stopped' | 'failed';
  /** 0 to 1. */
  readonly share: number;
  readonly doing: string;
  readonly problem?: string;
}

export interface Lab {
  readonly run: LabRun | undefined;
  start(request: LabRequest): void;
  stop(): void;
}

/** One run at a time, here as on the server. */
export function useLab(client: ServerClient): Lab {
  const [run, setRun] = useState<LabRun>();
  const running = useRef<AbortController>(undefined);

  const start = useCallback(
    async (request: LabRequest) => {
      running.current?.abort();
      const controller = new AbortController();
      running.current = controller;
      let current: LabRun = {
        request,
        results: [],
        unavailable: [],
        state: 'running',
        share: 0,
        doing: 'asking the server',
      };
      const show = (change: Partial<LabRun>) => {
        current = { ...current, ...change };
        if (running.current === controller) setRun(current);
      };
      show({});
      try {
        for await (const event of client.events<LabEvent>('api/attention-lab', request, controller.signal)) {
          if (event.type === 'begin') show({ begin: event });
          if (event.type === 'progress') show({ share: event.share, doing: event.doing });
          if (event.type === 'result') show({ results: [...current.results, event] });
          if (event.type === 'unavailable') show({ unavailable: [...current.unavailable, event] });
          if (event.type === 'end') show({ state: 'done', share: 1 });
        }
        if (current.state === 'running') show({ state: 'failed', problem: 'The server ended the run early.' });
      } catch (error) {
        if (controller.signal.aborted) show({ state: 'stopped' });
        else show({ state: 'failed', problem: error instanceof Error ? error.message : String(error) });
      }
    },
    [client],
  );
  const stop = useCallback(() => running.current?.abort(), []);
  useEffect(() => stop, [stop]);

  return { run, start: (request) => void start(request), stop };
}
