import type { AnswerMessage } from './message';

/** The line under an answer: how much, how fast, and how it ended. */
export function AnswerFacts({ answer }: { answer: AnswerMessage }) {
  const { tokens, tokensPerSecond, firstTokenMs, finishReason } = answer.pace;
  const facts = [
    tokens > 0 && `${tokens} token${tokens === 1 ? '' : 's'}`,
    tokensPerSecond !== undefined && `${formatRate(tokensPerSecond)} tokens/s`,
    firstTokenMs !== undefined && `first after ${formatWait(firstTokenMs)}`,
    answer.state === 'stopped' && 'stopped',
    answer.state === 'done' && finishReason === 'length' && 'cut off at the token limit',
  ].filter((fact) => typeof fact === 'string');
  return (
    <ul class="facts">
      {facts.map((fact) => (
        <li key={fact}>{fact}</li>
      ))}
    </ul>
  );
}

function formatRate(rate: number): string {
  return rate < 10 ? rate.toFixed(1) : String(Math.round(rate));
}

function formatWait(ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
