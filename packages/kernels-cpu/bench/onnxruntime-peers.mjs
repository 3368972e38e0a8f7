// onnxruntime-node's fp32 attention, as one-operator graphs: com.microsoft MultiHeadAttention and the opset-23 Attention.
// The ONNX files are written here field by field: protobuf with a handful of messages needs no library.

const TYPE_FLOAT = 1;
const varint = (n) => {
  const bytes = [];
  for (let rest = n; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...bytes, rest];
    bytes.push((rest % 128) | 128);
  }
};
const text = (s) => [...Buffer.from(s)];
const number = (field, n) => [...varint(field * 8), ...varint(n)];
const bytes = (field, content) => [...varint(field * 8 + 2), ...varint(content.length), ...content];

const attribute = (name, value) => bytes(5, [...bytes(1, text(name)), ...number(3, value), ...number(20, 2)]); // AttributeProto, INT
const valueInfo = (field, name, dims) => {
  const shape = dims.flatMap((dim) => bytes(1, number(1, dim)));
  return bytes(field, [...bytes(1, text(name)), ...bytes(2, bytes(1, [...number(1, TYPE_FLOAT), ...bytes(2, shape)]))]);
};

/** A model of one node with inputs q, k, v and output y. */
function model({ operator, domain, attributes, dims, opset }) {
  const node = bytes(1, [
    ...['q', 'k', 'v'].flatMap((name) => bytes(1, text(name))),
    ...bytes(2, text('y')),
    ...bytes(4, text(operator)),
    ...Object.entries(attributes).flatMap(([name, value]) => attribute(name, value)),
    ...bytes(7, text(domain)),
  ]);
  const graph = [
    ...node,
    ...bytes(2, text('attention')),
    ...['q', 'k', 'v'].flatMap((name) => valueInfo(11, name, dims)),
    ...valueInfo(12, 'y', dims),
  ];
  const imports = [
    ['', opset],
    ['com.microsoft', 1],
  ].flatMap(([name, version]) => bytes(8, [...bytes(1, text(name)), ...number(2, version)]));
  return Uint8Array.from([...number(1, 10), ...bytes(7, graph), ...imports]);
}

/** Peers that load here: `attention(shape)` resolves to {check, time}, or undefined where the peer cannot. Says so when there are none. */
export async function loadPeers(threads) {
  let ort;
  try {
    ort = (await import(process.env.INT_FLASH_ONNXRUNTIME ?? 'onnxruntime-node')).default; // or a path to one installed elsewhere
  } catch (error) {
    console.log(`No onnxruntime-node here (${error.code ?? error.message}): measuring without peers.`);
    return [];
  }
  const session = (definition) =>
    ort.InferenceSession.create(model(definition), {
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
      executionMode: 'sequential',
      logSeverityLevel: 3,
    });
  const peer = (name, define, toPeer, fromPeer) => ({
    name,
    async attention(shape) {
      try {
        const { dims, ...definition } = define(shape);
        const running = await session({ dims, ...definition });
        const [q, k, v] = shape.data.map((values) => new ort.Tensor('float32', toPeer(values, shape), dims));
        const time = () => running.run({ q, k, v });
        await time();
        return { time, check: async () => fromPeer((await time()).y.data, shape) };
      } catch (error) {
        console.log(`${name} cannot run here: ${error.message.slice(0, 120)}`);
        return undefined;
      }
    },
  });
  return [
    peer(
      'ort-MultiHeadAttention',
      ({ B, H, N, D, causal }) => ({
        operator: 'MultiHeadAttention',
        domain: 'com.microsoft',
        attributes: { num_heads: H, unidirectional: causal ? 1 : 0 },
        dims: [B, N, H * D],
        opset: 17,
      }),
      swapHeadsAndTokens,
      (out, shape) => swapHeadsAndTokens(out, { ...shape, H: shape.N, N: shape.H }),
    ),
    peer(
      'ort-Attention-23',
      ({ B, H, N, D, causal }) => ({
        operator: 'Attention',
        domain: '',
        attributes: { is_causal: causal ? 1 : 0 },
        dims: [B, H, N, D],
        opset: 23,
      }),
      (values) => values,
      (out) => out,
    ),
  ];
}

/** [H, N, D] to [N, H, D]. */
function swapHeadsAndTokens(values, { H, N, D }) {
  const out = new Float32Array(values.length);
  for (let h = 0; h < H; h++)
    for (let n = 0; n < N; n++) out.set(values.subarray((h * N + n) * D, (h * N + n + 1) * D), (n * H + h) * D);
  return out;
}
