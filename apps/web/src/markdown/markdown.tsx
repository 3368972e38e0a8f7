import { type MarkedToken, marked, type Token, type Tokens } from 'marked';
import type { ComponentChildren } from 'preact';
import { useMemo } from 'preact/hooks';
import { CodeBlock } from './code-block';
import { safeLink } from './safe-link';

/**
 * Shows a model's Markdown. The parser's tokens become elements one by one, and what is not in the list below becomes text: no string is
 * ever parsed as HTML, so there is nothing to sanitise. HTML in the text is shown as it was written; images are named, not loaded.
 */
export function Markdown({ text }: { text: string }) {
  return useMemo(() => <div class="markdown">{render(text)}</div>, [text]);
}

function render(text: string): ComponentChildren {
  try {
    return blocks(marked.lexer(text, { gfm: true, breaks: true }));
  } catch {
    return <p class="plain">{text}</p>; // nested deeper than the parser's stack
  }
}

function blocks(tokens: readonly Token[]): ComponentChildren {
  return tokens.map((token, index) => <Block key={index} token={token as MarkedToken} />);
}

function Block({ token }: { token: MarkedToken }): ComponentChildren {
  switch (token.type) {
    case 'space':
    case 'def':
      return null;
    case 'heading': {
      const Heading = token.depth <= 2 ? 'h3' : 'h4'; // the page itself has the first two levels
      return <Heading>{inline(token.tokens)}</Heading>;
    }
    case 'paragraph':
      return <p>{inline(token.tokens)}</p>;
    case 'text':
      return <>{'tokens' in token && token.tokens ? inline(token.tokens) : characters(token.text)}</>;
    case 'code':
      return <CodeBlock code={token.text} language={token.lang} />;
    case 'blockquote':
      return <blockquote>{blocks(token.tokens)}</blockquote>;
    case 'hr':
      return <hr />;
    case 'list':
      return <List list={token} />;
    case 'table':
      return <Table table={token} />;
    default:
      return <p class="plain">{token.raw}</p>;
  }
}

function List({ list }: { list: Tokens.List }) {
  const items = list.items.map((item, index) => (
    <li key={index} class={item.task ? 'task' : undefined}>
      {item.task && `${item.checked ? '☑' : '☐'} `}
      {blocks(item.tokens.filter(({ type }) => type !== 'checkbox'))}
    </li>
  ));
  return list.ordered ? <ol start={Number(list.start) || 1}>{items}</ol> : <ul>{items}</ul>;
}

function Table({ table }: { table: Tokens.Table }) {
  const cell = ({ tokens, align }: Tokens.TableCell) => ({
    class: align ? `align-${align}` : undefined,
    children: inline(tokens),
  });
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: a wide table scrolls, and the keyboard must be able to scroll it
    <section class="scroll" tabIndex={0} aria-label="Table">
      <table>
        <thead>
          <tr>
            {table.header.map((header, index) => (
              <th key={index} scope="col" {...cell(header)} />
            ))}
          </tr>
        </thead>
        <tbody>
          {table.rows.map((row, index) => (
            <tr key={index}>
              {row.map((data, column) => (
                <td key={column} {...cell(data)} />
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function inline(tokens: readonly Token[] = []): ComponentChildren {
  return tokens.map((token, index) => <Inline key={index} token={token as MarkedToken} />);
}

function Inline({ token }: { token: MarkedToken }): ComponentChildren {
  switch (token.type) {
    case 'text':
    case 'escape':
      return <>{'tokens' in token && token.tokens ? inline(token.tokens) : characters(token.text)}</>;
    case 'strong':
      return <strong>{inline(token.tokens)}</strong>;
    case 'em':
      return <em>{inline(token.tokens)}</em>;
    case 'del':
      return <del>{inline(token.tokens)}</del>;
    case 'codespan':
      return <code>{token.text}</code>;
    case 'br':
      return <br />;
    case 'image':
      return <span class="unloaded">[image not loaded: {token.text || token.href}]</span>;
    case 'link':
      return <Link link={token as Tokens.Link} />;
    default:
      return <>{token.raw}</>;
  }
}

/** A link says where it leads: its text is the model's, who may have it from anyone. */
function Link({ link }: { link: Tokens.Link }) {
  const url = safeLink(link.href);
  if (!url) return <>{link.raw}</>;
  const where = url.host || url.pathname;
  return (
    <a href={url.href} target="_blank" rel="noopener noreferrer nofollow">
      {inline(link.tokens)}
      {!link.text.includes(where) && <span class="where"> ({where})</span>}
    </a>
  );
}

const ENTITIES: Readonly<Record<string, string>> = {
  amp: '&',
  lt: '<',
  gt: '>',
  quot: '"',
  '#39': "'",
  nbsp: '\u00a0',
};

/** The entities that people write to escape text; the parser leaves them to a browser. The result is only ever a text node. */
function characters(text: string): string {
  return text.replace(/&(amp|lt|gt|quot|#39|nbsp);/g, (_, name: string) => ENTITIES[name]!);
}
