export interface Place {
  readonly x: number;
  readonly y: number;
}

/** How a point is drawn at its place. */
export interface ChartMark {
  /** A ring, where a dot would lie on another. */
  readonly isRing: boolean;
  readonly radius: number;
  /** With its line. */
  readonly outerRadius: number;
  /** How far the name begins from the place: outside the marks at this place. */
  readonly nameDistance: number;
  /** What its name says of it where other marks are here. */
  readonly shape: string | undefined;
}

const DOT = 6;
const RING_STEP = 7; // a dot that is near lies within the ring
const RING_LINE = 3;
const NAME_GAP = 6;
const SHAPES = ['dot', 'ring', 'outer ring'];
/** Dots that are closer cover too much of each other. */
const NEAR = 8;

/** Points stay at their places: where several share one, the first is a dot and the others are rings around it, each wider. */
export function chartMarks(places: readonly Place[]): ChartMark[] {
  const near = (a: number, b: number) =>
    a !== b && Math.hypot(places[a]!.x - places[b]!.x, places[a]!.y - places[b]!.y) < NEAR;
  const levels: number[] = [];
  for (const index of places.keys()) {
    const taken = new Set(levels.filter((_, other) => near(index, other)));
    let level = 0;
    while (taken.has(level)) level++;
    levels.push(level);
  }
  const outer = (index: number) => DOT + levels[index]! * RING_STEP + (levels[index]! > 0 ? RING_LINE / 2 : 0);
  return levels.map((level, index) => {
    const others = [...places.keys()].filter((other) => near(index, other));
    const reach = others.map((other) => outer(other) + Math.abs(places[other]!.x - places[index]!.x));
    return {
      isRing: level > 0,
      radius: DOT + level * RING_STEP,
      outerRadius: outer(index),
      nameDistance: Math.max(outer(index), ...reach) + NAME_GAP,
      shape: others.length > 0 ? SHAPES[Math.min(level, SHAPES.length - 1)] : undefined,
    };
  });
}
