import { variantTitle } from './lab-choices';
import { formatError, formatMs } from './lab-numbers';
import type { LabResult } from './lab-request';
import { logScale } from './log-scale';

const WIDTH = 640;
const HEIGHT = 360;
const PLOT = { left: 64, right: WIDTH - 24, top: 18, bottom: HEIGHT - 46 };
const LABEL_HEIGHT = 16;
const NAME_WIDTH = 110;
const SMALLEST_ERROR = 1e-9; // 0 has no place on a logarithmic axis

/** Error against time, both logarithmic: towards the lower left is better. The table below it says the same in numbers. */
export function ErrorTimeChart({ results }: { results: readonly LabResult[] }) {
  const points = results.map((result) => ({ ...result, error: Math.max(result.relativeL2, SMALLEST_ERROR) }));
  const x = logScale(
    points.map(({ ms }) => ms),
    PLOT.left,
    PLOT.right,
  );
  const y = logScale(
    points.map(({ error }) => error),
    PLOT.bottom,
    PLOT.top,
  );
  const labels = spread(points.map(({ error }) => y.place(error)));
  return (
    <svg
      class="chart"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      role="img"
      aria-label="Error against time; the table has the numbers"
    >
      {y.ticks.map((tick) => (
        <g key={tick} class="tick">
          <line x1={PLOT.left} x2={PLOT.right} y1={y.place(tick)} y2={y.place(tick)} />
          <text x={PLOT.left - 10} y={y.place(tick) + 4} text-anchor="end">
            {formatError(tick)}
          </text>
        </g>
      ))}
      {x.ticks.map((tick) => (
        <g key={tick} class="tick">
          <line x1={x.place(tick)} x2={x.place(tick)} y1={PLOT.top} y2={PLOT.bottom} />
          <text x={x.place(tick)} y={PLOT.bottom + 18} text-anchor="middle">
            {formatMs(tick)}
          </text>
        </g>
      ))}
      <text class="axis" x={PLOT.right} y={HEIGHT - 6} text-anchor="end">
        time, ms →
      </text>
      <text class="axis" x={PLOT.left - 54} y={PLOT.top - 6}>
        ↑ relative L2 error
      </text>
      {points.map(({ variant, ms, error }, index) => {
        const at = x.place(ms);
        const isTaken = points.some(
          (other) =>
            x.place(other.ms) > at &&
            x.place(other.ms) < at + NAME_WIDTH &&
            Math.abs(y.place(other.error) - labels[index]!) < LABEL_HEIGHT,
        );
        const left = at > WIDTH * 0.72 || (isTaken && at > PLOT.left + NAME_WIDTH); // no room on the right for a name
        return (
          <g key={variant} class={`point ${variant}`}>
            <circle cx={at} cy={y.place(error)} r={6} />
            <text x={at + (left ? -12 : 12)} y={labels[index]! + 4} text-anchor={left ? 'end' : 'start'}>
              {variantTitle(variant)}
            </text>
          </g>
        );
      })}
    </svg>
  );
}

/** Moves labels apart that would lie over each other, keeping their order. */
function spread(places: readonly number[]): number[] {
  const order = places.map((_, index) => index).sort((a, b) => places[a]! - places[b]!);
  const moved = [...places];
  let last = -Infinity;
  for (const index of order) {
    moved[index] = Math.max(places[index]!, last + LABEL_HEIGHT);
    last = moved[index]!;
  }
  return moved;
}
