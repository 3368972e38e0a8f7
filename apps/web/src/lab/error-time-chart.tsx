import { chartMarks } from './chart-marks';
import { variantTitle } from './lab-choices';
import { formatError, formatMs } from './lab-numbers';
import type { LabResult } from './lab-request';
import { logScale } from './log-scale';

const WIDTH = 640;
const HEIGHT = 360;
const PLOT = { left: 64, right: WIDTH - 24, top: 18, bottom: HEIGHT - 46 };
const LABEL_HEIGHT = 16;
const NAME_HALF_HEIGHT = 10;
const NAME_WIDTH = 110;
const SHAPE_WIDTH = 74;
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
  const places = points.map(({ ms, error }) => ({ x: x.place(ms), y: y.place(error) }));
  const marks = chartMarks(places);
  const labels = spread(places.map((place) => place.y));
  // Wide marks first: what is within a ring lies on it.
  const order = [...places.keys()].sort((a, b) => marks[b]!.radius - marks[a]!.radius);
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
      {order.map((index) => {
        const { variant } = points[index]!;
        const { x: at, y: height } = places[index]!;
        const { isRing, radius, nameDistance, shape } = marks[index]!;
        const width = NAME_WIDTH + (shape ? SHAPE_WIDTH : 0);
        const isTaken = places.some(
          (other, i) =>
            other.x > at &&
            other.x < at + width &&
            Math.abs(other.y - labels[index]!) < marks[i]!.outerRadius + NAME_HALF_HEIGHT,
        );
        const left = at + nameDistance + width > WIDTH || (isTaken && at > PLOT.left + width); // no room on the right for a name
        return (
          <g key={variant} class={`point ${variant}`}>
            <circle class={isRing ? 'ring' : undefined} cx={at} cy={height} r={radius} />
            <text
              x={at + (left ? -nameDistance : nameDistance)}
              y={labels[index]! + 4}
              text-anchor={left ? 'end' : 'start'}
            >
              {variantTitle(variant)}
              {shape && <tspan class="shape">{` (${shape})`}</tspan>}
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
