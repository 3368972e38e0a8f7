import { useEffect, useState } from 'preact/hooks';
import { Icon } from './icon';

const SAID_MS = 1500;

export function CopyButton({ text, what }: { text: string; what: string }) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), SAID_MS);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
  };
  // Browsers offer the clipboard to https and to localhost only.
  if (!('clipboard' in navigator)) return null;
  return (
    <button type="button" class="quiet" aria-label={copied ? 'Copied' : `Copy ${what}`} onClick={() => void copy()}>
      <Icon name={copied ? 'check' : 'copy'} />
    </button>
  );
}
