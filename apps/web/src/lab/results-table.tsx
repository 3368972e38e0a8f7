import { VARIANTS, variantTitle } from './lab-choices';
import { formatError, formatMs } from './lab-numbers';
import type { LabResult } from './lab-request';

export function ResultsTable({ results }: { results: readonly LabResult[] }) {
  const fp32 = results.find(({ variant }) => variant === 'fp32');
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: on a narrow screen the table scrolls, and the keyboard must be able to scroll it
    <section class="scroll" tabIndex={0} aria-label="Results">
      <table class="results">
        <thead>
          <tr>
            <th scope="col">Arithmetic</th>
            <th scope="col">Time, ms</th>
            <th scope="col">Against fp32</th>
            <th scope="col">Relative L2</th>
            <th scope="col">1 − cosine</th>
            <th scope="col">Worst element</th>
          </tr>
        </thead>
        <tbody>
          {results.map(({ variant, ms, relativeL2, cosine, worst }) => (
            <tr key={variant}>
              <th scope="row">
                <span class={`swatch ${variant}`} aria-hidden="true" />
                {variantTitle(variant)}
                <small class="says">{VARIANTS.find(({ value }) => value === variant)?.says}</small>
              </th>
              <td>{formatMs(ms)}</td>
              <td>{fp32 ? `${(fp32.ms / ms).toFixed(2)}×` : '–'}</td>
              <td>{formatError(relativeL2)}</td>
              <td>{formatError(Math.max(0, 1 - cosine))}</td>
              <td>{formatError(worst)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
