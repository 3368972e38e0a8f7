import { backendInWords, type ServerStatus } from '../server/server-status';

/** One of each thing that the shipped model was trained on; any chat model can answer them. */
const OPENINGS = [
  'Hello! Who are you?',
  'Tell me a story about a fox.',
  'I would like to find a restaurant in San Jose.',
];

export function Welcome({ status, onAsk }: { status: ServerStatus; onAsk: (text: string) => void }) {
  const facts: [name: string, fact: string][] = [
    ['Model', status.model],
    ['Attention', status.precision],
    ['KV cache', status.kvCacheDtype],
    ['Runs on', backendInWords(status)],
    ['Context', `${status.contextLength.toLocaleString('en')} tokens`],
  ];
  return (
    <section class="welcome" aria-labelledby="welcome-title">
      <h1 id="welcome-title">A language model whose attention runs on integers.</h1>
      <p class="lead">
        {status.chatTemplate
          ? 'It answers from this machine. What you write stays in this page’s memory and goes to this server only.'
          : 'This model continues text: write a beginning. What you write stays in this page’s memory and goes to this server only.'}
      </p>
      <dl>
        {facts.map(([name, fact]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{fact}</dd>
          </div>
        ))}
      </dl>
      <ul class="openings" aria-label="To begin with">
        {OPENINGS.map((text) => (
          <li key={text}>
            <button type="button" onClick={() => onAsk(text)}>
              {text}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
