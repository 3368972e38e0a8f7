// onnxruntime-node's fp32 attention on the CPU: three operators, each the only node of a graph, with as many threads as we take.
import { oneNodeModel } from './onnx-model.mjs';

const [Q, K, V] = ['q', 'k', 'v'];

// How each operator wants its operands; `shape` is {H, Nq, Nk, D, causal}. Undefined: it does not compute this.
const OPERATORS = {
  MultiHeadAttention: ({ H, Nq, Nk, D, causal }) => ({
    domain: 'com.microsoft',
    opset: 17,
    attributes: { num_heads: H, unidirectional: causal && Nq > 1 ? 1 : 0 },
    inputs: [named(Q, [1, Nq, H * D]), named(K, [1, Nk, H * D]), named(V, [1, Nk, H * D])],
    outputs: [named('y', [1, Nq, H * D])],
    headsLast: [Q, K, V],
  }),
  // Always causal; a decoding step comes with the keys before it as `past`.
  GroupQueryAttention: ({ H, Nq, Nk, D, causal }) => {
    if (!causal) return undefined;
    const past = Nk - Nq;
    return {
      domain: 'com.microsoft',
      opset: 17,
      attributes: { num_heads: H, kv_num_heads: H },
      inputs: [
        ...[Q, K, V].map((name) => named(name, [1, Nq, H * D])),
        past > 0 ? named('past_k', [1, H, past, D]) : undefined,
        past > 0 ? named('past_v', [1, H, past, D]) : undefined,
        named('last', [1], 'int32'),
        named('total', [1], 'int32'),
      ],
      outputs: [named('y', [1, Nq, H * D]), named('new_k', [1, H, Nk, D]), named('new_v', [1, H, Nk, D])],
      headsLast: [Q, K, V],
      past,
    };
  },
  'Attention-23': ({ H, Nq, Nk, D, causal }) => ({
    domain: '',
    opset: 23,
    attributes: { is_causal: causal && Nq > 1 ? 1 : 0 },
    inputs: [named(Q, [1, H, Nq, D]), named(K, [1, H, Nk, D]), named(V, [1, H, Nk, D])],
    outputs: [named('y', [1, H, Nq, D])],
    headsLast: [],
  }),
};

function named(name, dims, type = 'float32') {
  return { name, dims, type };
}

/** Peers that load here, [] with a line that says so where there are none; `prepare(shape, data)` of one resolves to {run, answer}. */
export async function loadPeers(threads) {
  let ort;
  try {
    ort = (await import('onnxruntime-node')).default;
  } catch (error) {
    console.log(`No onnxruntime-node here (${error.code ?? error.message}): measuring without peers.`);
    return [];
  }
  const refused = new Set();
  return Object.entries(OPERATORS).map(([operator, define]) => ({
    name: `ort-${operator}`,
    /**
     * @param shape {H, Nq, Nk, D, causal}
     * @param data  sets of [q, k, v], each [H, tokens, D]: call i of `run` takes set i modulo their number
     * @returns {run(i), answer()}: one call, and the output of the first set as [H, Nq, D]; undefined where the operator cannot
     */
    async prepare(shape, data) {
      const definition = define(shape);
      if (!definition || refused.has(operator)) return undefined;
      try {
        const model = oneNodeModel({ operator: operator.replace(/-\d+$/, ''), ...definition });
        const session = await ort.InferenceSession.create(model, {
          intraOpNumThreads: threads,
          interOpNumThreads: 1,
          executionMode: 'sequential',
          logSeverityLevel: 3,
        });
        const feeds = data.map((set) => feedsOf(ort, definition, shape, set));
        const run = (i) => session.run(feeds[i % feeds.length], ['y']);
        const { y } = await run(0);
        const answer = definition.headsLast.length > 0 ? swapAxes(y.data, shape.Nq, shape.H, shape.D) : y.data;
        return { run, answer, release: () => session.release() };
      } catch (error) {
        refused.add(operator);
        console.log(`${operator} cannot run here: ${error.message.slice(0, 160)}`);
        return undefined;
      }
    },
  }));
}

function feedsOf(ort, { inputs, headsLast, past = 0 }, { H, Nq, Nk, D }, [q, k, v]) {
  const whole = { q, k, v };
  const feeds = {};
  for (const input of inputs) {
    if (!input) continue;
    const { name, type, dims } = input;
    let values;
    if (name === 'last') values = Int32Array.of(Nk - 1);
    else if (name === 'total') values = Int32Array.of(Nk);
    else if (name.startsWith('past_')) values = tokensOf(whole[name.slice(-1)], H, Nk, D, 0, past);
    else {
      const tokens = name === Q ? Nq : Nk;
      const rows = name === Q || past === 0 ? whole[name] : tokensOf(whole[name], H, Nk, D, past, Nk);
      values = headsLast.includes(name) ? swapAxes(rows, H, name === Q || past === 0 ? tokens : Nk - past, D) : rows;
    }
    feeds[name] = new ort.Tensor(type, values, dims);
  }
  return feeds;
}

/** Tokens [from, to) of each head of [H, N, D]. */
function tokensOf(values, H, N, D, from, to) {
  const out = new Float32Array(H * (to - from) * D);
  for (let h = 0; h < H; h++) out.set(values.subarray((h * N + from) * D, (h * N + to) * D), h * (to - from) * D);
  return out;
}

/** [a, b, D] to [b, a, D]. */
function swapAxes(values, a, b, D) {
  const out = new Float32Array(a * b * D);
  for (let i = 0; i < a; i++)
    for (let j = 0; j < b; j++) out.set(values.subarray((i * b + j) * D, (i * b + j + 1) * D), (j * a + i) * D);
  return out;
}
