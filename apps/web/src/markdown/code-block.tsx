import { CopyButton } from '../shell/copy-button';

export function CodeBlock({ code, language }: { code: string; language: string | undefined }) {
  const name = language?.split(/\s/)[0];
  return (
    <section class="code-block" aria-label={name ? `Code, ${name}` : 'Code'}>
      <header>
        <span>{name || 'code'}</span>
        <CopyButton text={code} what="code" />
      </header>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: long lines scroll, and the keyboard must be able to scroll them */}
      <pre tabIndex={0}>
        <code>{code}</code>
      </pre>
    </section>
  );
}
