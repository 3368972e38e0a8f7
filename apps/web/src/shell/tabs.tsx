import type { TargetedKeyboardEvent } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';

export type TabName = 'chat' | 'lab';
const TABS: readonly { readonly name: TabName; readonly title: string }[] = [
  { name: 'chat', title: 'Chat' },
  { name: 'lab', title: 'Attention lab' },
];

/** The shown tab, kept in the address after `#`, so that a link can lead to it. */
export function useTab(): [TabName, (tab: TabName) => void] {
  const read = (): TabName => (location.hash === '#lab' ? 'lab' : 'chat');
  const [tab, setTab] = useState(read);
  useEffect(() => {
    const onHash = () => setTab(read());
    addEventListener('hashchange', onHash);
    return () => removeEventListener('hashchange', onHash);
  }, []);
  const choose = (name: TabName) => {
    history.replaceState(null, '', `#${name}`);
    setTab(name);
  };
  return [tab, choose];
}

/** One stop for the Tab key; the arrow keys move inside, as in every list of tabs. */
export function Tabs({ tab, onChange }: { tab: TabName; onChange: (tab: TabName) => void }) {
  const list = useRef<HTMLDivElement>(null);
  const onKeyDown = (event: TargetedKeyboardEvent<HTMLDivElement>) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const index = (TABS.findIndex(({ name }) => name === tab) + step + TABS.length) % TABS.length;
    onChange(TABS[index]!.name);
    (list.current!.children[index] as HTMLElement).focus();
  };
  return (
    <div ref={list} class="tabs" role="tablist" aria-label="Views" tabIndex={-1} onKeyDown={onKeyDown}>
      {TABS.map(({ name, title }) => (
        <button
          key={name}
          type="button"
          role="tab"
          id={`tab-${name}`}
          aria-controls={`panel-${name}`}
          aria-selected={tab === name}
          tabIndex={tab === name ? 0 : -1}
          onClick={() => onChange(name)}
        >
          {title}
        </button>
      ))}
    </div>
  );
}
