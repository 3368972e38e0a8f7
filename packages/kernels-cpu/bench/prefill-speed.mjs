// Attention of N float32 queries on N keys, quantization included, beside the peers and the machine's dot-product peak.
import { judgeAttention } from '@int-flash/ops';
import { relativeL2, softmaxAttention } from '@int-flash/reference';
import { race, timesAsLong } from './race.mjs';
import { randomFloats } from './raw-calls.mjs';

// Largest relative L2 accepted: docs/arithmetic.md's targets with room for short sequences; fp32 is float32 arithmetic.
const TOLERANCE = { 'full-int8': 0.02, 'half-int8': 0.013, 'paper-int8': 0.06, fp32: 1e-5 };
const H = 8;

/** @param machine {backend, peers, peak, settled}; with peers only the default precision and fp32 are timed. */
export async function prefillSpeed(machine, { N, D, causal }) {
  const { backend, peers } = machine;
  const data = [1, 2, 3].map((seed) => randomFloats(H * N * D, seed));
  const [query, key, value] = data.map((values) => ({ type: 'float32', dims: [1, H, N, D], data: values }));
  const precisions = peers.length > 0 ? ['full-int8', 'fp32'] : Object.keys(TOLERANCE);
  const attend = (precision) =>
    backend.attentionSync(judgeAttention({ query, key, value }, { precision, isCausal: causal })).out;
  for (const precision of precisions) checkAnswer(backend, precision, { query, key, value }, D, causal);
  const candidates = Object.fromEntries(precisions.map((precision) => [precision, () => attend(precision)]));
  const answer = attend('fp32');
  const running = [];
  for (const peer of peers) {
    const prepared = await peer.prepare({ H, Nq: N, Nk: N, D, causal }, [data]);
    if (!prepared) continue;
    const error = relativeL2(prepared.answer, answer);
    if (!(error <= 1e-3)) throw new Error(`${peer.name} differs from fp32 by ${error}`);
    candidates[peer.name] = prepared.run;
    running.push(prepared);
  }
  let operations = 0;
  let peaks = 0;
  candidates.peak = () => {
    operations += machine.peak();
    peaks++;
  };
  const limits = N >= 4096 ? { rounds: 5, seconds: 6 } : { rounds: 11, seconds: 2 };
  const { peak: _, ...times } = await race(candidates, limits, peers.length > 0 ? machine.settled : undefined);
  for (const { release } of running) await release();
  const gigaOperations = (4 * H * D * N * (causal ? (N + 1) / 2 : N)) / 1e9;
  const best = Object.entries(times)
    .filter(([name]) => name.startsWith('ort-'))
    .sort(([, a], [, b]) => a.ms - b.ms)[0];
  return Object.entries(times).map(([variant, time]) => ({
    bench: 'prefill',
    variant,
    H,
    N,
    D,
    causal,
    ms: time.ms,
    gops: gigaOperations / (time.ms / 1e3),
    ...(operations > 0 && { shareOfPeak: gigaOperations / (time.ms / 1e3) / (operations / peaks / 1e9) }),
    ...(best && { bestPeer: best[0], timesBestPeer: timesAsLong(best[1], time) }),
    timesFp32: timesAsLong(times.fp32, time),
  }));
}

/** The oracle is slow: a short sequence of the same head dimension shows that this build computes attention. */
function checkAnswer(backend, precision, operands, D, isCausal) {
  const tokens = Math.min(192, operands.query.data.length / D);
  const short = Object.fromEntries(
    Object.entries(operands).map(([name, tensor]) => [
      name,
      { ...tensor, dims: [1, 1, tokens, D], data: tensor.data.slice(0, tokens * D) },
    ]),
  );
  const plan = judgeAttention(short, { precision, isCausal });
  const error = relativeL2(backend.attentionSync(plan).out, softmaxAttention(plan).out);
  if (!(error <= TOLERANCE[precision])) throw new Error(`${precision} at headDim ${D} is ${error} off`);
}

/** The default precision on 1, 2, … threads; `backends` maps a number of threads to a backend. */
export async function threadSpeed(backends, { N, D }) {
  const tensor = (seed) => ({ type: 'float32', dims: [1, H, N, D], data: randomFloats(H * N * D, seed) });
  const plan = judgeAttention({ query: tensor(1), key: tensor(2), value: tensor(3) }, {});
  const candidates = Object.fromEntries(
    Object.entries(backends).map(([threads, backend]) => [threads, () => backend.attentionSync(plan)]),
  );
  const times = await race(candidates, { rounds: 11, seconds: 3 });
  return Object.entries(times).map(([threads, time]) => ({
    bench: 'threads',
    variant: 'full-int8',
    H,
    N,
    D,
    causal: false,
    threads: Number(threads),
    ms: time.ms,
    timesOneThread: timesAsLong(times[1], time),
  }));
}
