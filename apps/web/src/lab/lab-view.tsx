import type { ServerClient } from '../server/server-client';
import { ErrorTimeChart } from './error-time-chart';
import { FAMILIES, variantTitle } from './lab-choices';
import { LabForm } from './lab-form';
import { ResultsTable } from './results-table';
import { type LabRun, useLab } from './use-lab';

export function LabView({ client }: { client: ServerClient }) {
  const { run, start, stop } = useLab(client);
  return (
    <div class="lab">
      <section class="lab-intro" aria-labelledby="lab-title">
        <h1 id="lab-title">Attention lab</h1>
        <p class="lead">
          The same attention in five kinds of arithmetic, on this server, beside float64: what does each cost, and what
          does it lose?
        </p>
      </section>
      <LabForm running={run?.state === 'running'} onStart={start} onStop={stop} />
      <section class="lab-results" aria-label="What came out">
        {run ? (
          <Outcome run={run} />
        ) : (
          <p class="empty">Pick a distribution and run it. A second or two on most machines.</p>
        )}
      </section>
    </div>
  );
}

function Outcome({ run }: { run: LabRun }) {
  const { request, results, unavailable, begin, state, share, doing, problem } = run;
  const family = FAMILIES.find(({ value }) => value === request.family)?.title ?? request.family;
  return (
    <>
      <p class="run-line" role="status">
        {state === 'running' && `Running: ${doing}.`}
        {state === 'done' && `Done: ${results.length} kinds of arithmetic.`}
        {state === 'stopped' && 'Stopped.'}
      </p>
      {state === 'running' && <progress max={1} value={share} aria-label="Progress" />}
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {results.length > 0 && (
        <figure>
          <ErrorTimeChart results={results} />
          <figcaption>
            {family}, {request.tokens.toLocaleString('en')} tokens, {request.heads} head{request.heads === 1 ? '' : 's'}{' '}
            of {request.headDim}
            {request.isCausal && ', causal'}, seed {request.seed}
            {begin && ` · ${[begin.backend.name, begin.backend.isa].filter(Boolean).join(', ')}`}
            {begin && begin.checkedRows < request.tokens && ` · error over ${begin.checkedRows} rows a head`}. Time is
            the median call, float32 in and out; towards the lower left is better.
          </figcaption>
        </figure>
      )}
      {results.length > 0 && <ResultsTable results={results} />}
      {unavailable.map(({ variant, why }) => (
        <p key={variant} class="run-line">
          {variantTitle(variant)} did not run: {why}.
        </p>
      ))}
    </>
  );
}
