// Decoders of known shapes with random weights, for benchmarks: as fast as the real ones.

let state = 1;
/** In [-1, 1), the same ones each time. */
export function random() {
  state = (Math.imul(state, 1664525) + 1013904223) | 0;
  return state / 2 ** 31;
}

/**
 * `length` numbers that repeat: making them takes longer than reading them. Their count is prime, so that rows differ. All weights of a
 * kind begin with the same ones, and are made anew only where more are wanted than before.
 */
function numbers(kind, length) {
  const { type, next } = kind;
  if (!kind.made || kind.made.length < length) {
    const all = new type(length);
    const some = Math.min(length, 1_000_003);
    for (let i = 0; i < some; i++) all[i] = next();
    for (let done = some; done < length; done *= 2) all.copyWithin(done, 0, Math.min(done, length - done));
    kind.made = all;
  }
  return kind.made.subarray(0, length);
}
const CODES = { type: Int8Array, next: () => 127 * random() };
const PACKED = { type: Uint8Array, next: () => 256 * random() };
/** bfloat16 numbers, as models have them. */
const EMBEDDING = { type: Float32Array, next: () => Math.trunc(128 * random()) / 128 };

function int8Linear(backend, rows, cols) {
  const scales = new Float32Array(rows).fill(1 / (73 * Math.sqrt(cols)));
  return backend.createLinear({ type: 'int8', rows, cols, codes: numbers(CODES, rows * cols), scales });
}

/** Weights alone in 4 bits, a scale for 128 columns. */
function int4Linear(backend, rows, cols) {
  const scales = new Float32Array((rows * cols) / 128).fill(1 / (4.6 * Math.sqrt(cols)));
  const packed = numbers(PACKED, (rows * cols) / 2);
  return backend.createLinear({ type: 'int4', rows, cols, packed, scales, group: 128 });
}

/**
 * A decoder of a shape of decoder-shapes.json. All layers share one layer's weights.
 *
 * @param weightType `int8` or `int4`
 * @returns {{ decoder, weightBytes: number, dispose(): void }} weightBytes: what a step reads of them
 */
export function randomDecoder(backend, shape, weightType, maxTokens) {
  const { layers, hiddenSize, heads, kvHeads, headDim, intermediateSize, vocabSize, headNorms } = shape;
  const norm = { gain: new Float32Array(hiddenSize).fill(1), bias: undefined };
  const headNorm = headNorms ? new Float32Array(headDim).fill(1) : undefined;
  const [linearOf, bytesAWeight] = weightType === 'int4' ? [int4Linear, 0.5 + 4 / 128] : [int8Linear, 1];
  const linear = (rows, cols) => linearOf(backend, rows, cols);
  const layer = {
    attentionNorm: norm,
    mlpNorm: norm,
    queryNorm: headNorm,
    keyNorm: headNorm,
    qkv: linear((heads + 2 * kvHeads) * headDim, hiddenSize),
    attentionOutput: linear(hiddenSize, heads * headDim),
    mlpUp: linear(2 * intermediateSize, hiddenSize),
    mlpDown: linear(hiddenSize, intermediateSize),
    windowLeft: Infinity,
  };
  const weights = numbers(EMBEDDING, vocabSize * hiddenSize);
  const output = backend.createLinear({ type: 'fp32', rows: vocabSize, cols: hiddenSize, weights });
  const half = headDim / 2;
  const frequencies = Float64Array.from({ length: half }, (_, i) => 10000 ** (-i / half));
  const angle = (i) => Math.floor(i / half) * frequencies[i % half];
  const table = (turn) => Float32Array.from({ length: maxTokens * half }, (_, i) => turn(angle(i)));
  const decoder = backend.createDecoder({
    hiddenSize,
    heads,
    kvHeads,
    headDim,
    intermediateSize,
    vocabSize,
    maxTokens,
    norm: { type: 'rms', epsilon: 1e-5 },
    activation: 'swiglu',
    scale: 1 / Math.sqrt(headDim),
    embedding: undefined,
    positions: undefined,
    rotary: { half, cos: table(Math.cos), sin: table(Math.sin) },
    layers: new Array(layers).fill(layer),
    outputNorm: norm,
    output,
  });
  const inLayer = [layer.qkv, layer.attentionOutput, layer.mlpUp, layer.mlpDown];
  const weightBytes =
    layers * inLayer.reduce((sum, { rows, cols }) => sum + rows * cols * bytesAWeight, 0) + 2 * vocabSize * hiddenSize;
  const dispose = () => {
    decoder.dispose();
    for (const linear of [...inLayer, output]) linear.dispose();
  };
  return { decoder, weightBytes, dispose };
}
