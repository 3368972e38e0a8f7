// Linear layers: INT8 and INT4 weights beside float32 ones.
import { race, timesAsLong } from './race.mjs';
import { randomCodes, randomFloats } from './raw-calls.mjs';

export async function linearSpeed({ backend }, { rows, cols, tokens }) {
  const input = randomFloats(tokens * cols, 1);
  const out = new Float32Array(tokens * rows);
  const layers = {
    'linear-int8': backend.createLinear({
      type: 'int8',
      rows,
      cols,
      codes: randomCodes(rows * cols, 2),
      scales: new Float32Array(rows).fill(0.01),
    }),
    'linear-fp32': backend.createLinear({ type: 'fp32', rows, cols, weights: randomFloats(rows * cols, 2) }),
  };
  const candidates = Object.fromEntries(
    Object.entries(layers).map(([name, layer]) => [name, () => layer.forwardSync(input, tokens, out)]),
  );
  const times = await race(candidates, { rounds: 9, seconds: 1 });
  for (const layer of Object.values(layers)) layer.dispose();
  return Object.entries(times).map(([variant, time]) => ({
    bench: 'linear',
    variant,
    rows,
    cols,
    tokens,
    ms: time.ms,
    gops: (2 * rows * cols * tokens) / time.ms / 1e6,
    timesFp32: timesAsLong(times['linear-fp32'], time),
  }));
}
