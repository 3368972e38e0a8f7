/** How far two runs of one model over the same tokens lie apart. */
export interface LogitDifference {
  /** ‖a − b‖₂ / ‖b‖₂ over all logits, each row less its mean: softmax is blind to a constant. */
  readonly relativeL2: number;
  readonly maxAbsolute: number;
  /** Positions where both rank the same token first … */
  readonly sameGreedyToken: number;
  /** … of so many. */
  readonly positions: number;
  /** ‖b‖₂² of the rows less their means: the weight of this text in {@link poolDifferences}. */
  readonly squaredTruth: number;
}

/**
 * Compares logits of the run in question with logits of the run that counts as true.
 * @param got, truth [positions, vocabulary], row-major.
 */
export function compareLogits(got: Float32Array, truth: Float32Array, vocabulary: number): LogitDifference {
  const positions = truth.length / vocabulary;
  let squaredDifference = 0;
  let squaredTruth = 0;
  let maxAbsolute = 0;
  let sameGreedyToken = 0;
  for (let row = 0; row < positions; row++) {
    const a = got.subarray(row * vocabulary, (row + 1) * vocabulary);
    const b = truth.subarray(row * vocabulary, (row + 1) * vocabulary);
    const [meanA, meanB] = [mean(a), mean(b)];
    for (let i = 0; i < vocabulary; i++) {
      const difference = a[i]! - meanA - (b[i]! - meanB);
      squaredDifference += difference * difference;
      squaredTruth += (b[i]! - meanB) ** 2;
      maxAbsolute = Math.max(maxAbsolute, Math.abs(difference));
    }
    if (indexOfMax(a) === indexOfMax(b)) sameGreedyToken++;
  }
  const relativeL2 = squaredTruth > 0 ? Math.sqrt(squaredDifference / squaredTruth) : 0;
  return { relativeL2, maxAbsolute, sameGreedyToken, positions, squaredTruth };
}

/** The difference over several texts as if they were one. */
export function poolDifferences(parts: readonly LogitDifference[]): LogitDifference {
  const sum = (of: (part: LogitDifference) => number) => parts.reduce((total, part) => total + of(part), 0);
  const squaredTruth = sum((part) => part.squaredTruth);
  const squaredDifference = sum((part) => part.relativeL2 ** 2 * part.squaredTruth);
  return {
    relativeL2: squaredTruth > 0 ? Math.sqrt(squaredDifference / squaredTruth) : 0,
    maxAbsolute: Math.max(...parts.map((part) => part.maxAbsolute)),
    sameGreedyToken: sum((part) => part.sameGreedyToken),
    positions: sum((part) => part.positions),
    squaredTruth,
  };
}

function mean(row: Float32Array): number {
  let total = 0;
  for (let i = 0; i < row.length; i++) total += row[i]!;
  return total / row.length;
}

function indexOfMax(row: Float32Array): number {
  let best = 0;
  for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i;
  return best;
}
