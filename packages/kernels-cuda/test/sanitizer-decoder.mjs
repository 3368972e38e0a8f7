// Decoders of every padded head width for compute-sanitizer:
//   compute-sanitizer --tool memcheck node packages/kernels-cuda/test/sanitizer-decoder.mjs [0 to 8, all when absent]
// Prompts and single tokens, one sequence and several, INT8, INT4 and fp32 linear layers, an MLP so large that cuBLASLt multiplies and the same by our own kernels, pages and tiles that begin and end everywhere; results are not judged here.
import { createCudaBackend } from '../dist/index.js';

const backend = createCudaBackend();
let steps = 0;
const numbers = (count, seed) => Float32Array.from({ length: count }, (_, i) => Math.sin((i + 1) * seed) * 0.3);

function linear(kind, rows, cols) {
  if (kind === 'fp32') return backend.createLinear({ type: 'fp32', rows, cols, weights: numbers(rows * cols, 0.7) });
  const codes = Int8Array.from(numbers(rows * cols, 0.7), (x) => Math.round(x * 300));
  if (kind === 'int4') {
    const packed = Uint8Array.from(codes.subarray(0, (rows * cols) / 2), (code) => code & 255);
    const scales = new Float32Array((rows * cols) / GROUP).fill(0.01);
    return backend.createLinear({ type: 'int4', rows, cols, packed, scales, group: GROUP });
  }
  return backend.createLinear({ type: 'int8', rows, cols, codes, scales: new Float32Array(rows).fill(0.01) });
}

const GROUP = 32;
const SMALL = { hiddenSize: 72, intermediateSize: 100 };
const WHOLE_GROUPS = { hiddenSize: 96, intermediateSize: 160 };
/** 2^20 weights in the first layer of its MLP. */
const LARGE = { hiddenSize: 128, intermediateSize: 4096 };

const DECODERS = [
  ['int8', 64, 6, 2, 'tiles'],
  ['int8', 64, 6, 2, 'runs'],
  ['fp32', 40, 2, 1, 'runs'],
  ['int8', 128, 11, 1, 'tiles'],
  ['int8', 128, 4, 1, 'runs'],
  ['int8', 256, 2, 2, 'runs'],
  ['int4', 64, 4, 2, 'runs', WHOLE_GROUPS],
  ['int8', 64, 4, 2, 'runs', LARGE, 'library'],
  ['int8', 64, 4, 2, 'runs', LARGE, 'own'],
];
const only = process.argv[2];
for (const [kind, headDim, heads, kvHeads, split, widths = SMALL, products] of only === undefined
  ? DECODERS
  : [DECODERS[Number(only)]]) {
  process.env.INTFLASH_KEY_SPLIT = split; // read when a decoder is made
  if (products === 'own') process.env.INTFLASH_CUBLASLT = '0'; // read when a product first asks for it: in a process of its own
  const { hiddenSize, intermediateSize } = widths;
  const [vocabSize, maxTokens] = [90, 1800];
  const norm = { gain: numbers(hiddenSize, 0.3), bias: undefined };
  const layer = {
    attentionNorm: norm,
    mlpNorm: norm,
    queryNorm: undefined,
    keyNorm: undefined,
    qkv: linear(kind, (heads + 2 * kvHeads) * headDim, hiddenSize),
    attentionOutput: linear(kind, hiddenSize, heads * headDim),
    mlpUp: linear(kind, 2 * intermediateSize, hiddenSize),
    mlpDown: linear(kind, hiddenSize, intermediateSize),
    windowLeft: heads === 6 ? 150 : Infinity,
  };
  const output = linear('fp32', vocabSize, hiddenSize);
  const half = headDim / 2;
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
    rotary: { half, cos: numbers(maxTokens * half, 0.9), sin: numbers(maxTokens * half, 1.1) },
    layers: [layer],
    outputNorm: norm,
    output,
  });
  const caches = [
    ['int8', 'token'],
    ['int4', 'token'],
    [headDim === 128 ? 'int8' : 'int4', 'channel'],
  ];
  for (const [cacheType, keyScales] of widths === SMALL ? caches : caches.slice(0, 1)) {
    const sequence = decoder.createSequence(cacheType, keyScales);
    // Once behind more keys than a block takes: what several blocks found is merged then.
    const behindMany = split === 'runs' && kvHeads === 1 && cacheType === 'int8' ? [1100, 1, 3] : [];
    for (const length of [1, 62, 1, 1, 65, 8, 1, 130, 5, 1, 300, 1, 1, ...behindMany]) {
      const ids = Int32Array.from({ length }, (_, i) => (i * 7) % vocabSize);
      await sequence.forward(ids, new Float32Array(vocabSize));
      steps++;
    }
    // Beside others, keys split by tiles and by runs, tokens drawn on the device.
    const others = [
      sequence,
      decoder.createSequence(cacheType, keyScales),
      decoder.createSequence(cacheType, keyScales),
    ];
    const part = (i, length) => ({
      sequence: others[i],
      ids: Int32Array.from({ length }, (_, t) => (t + i) % vocabSize),
    });
    const rules = { temperature: 0.8, topK: 20, topP: 0.9, minP: 0.01, uniform: 0.4, vocabulary: vocabSize - 3 };
    await decoder.forwardBatch([part(1, 40), part(2, 3), part(0, 1)], new Float32Array(3 * vocabSize));
    for (let i = 0; i < 4; i++) {
      await decoder.drawBatch([0, 1, 2].map((at) => ({ ...part(at, 1), draw: [{ ...rules, topK: 20 * (i % 2) }] })));
      await decoder.drawBatch([0, 1, 2].map((at) => ({ ...part(at, 1), draw: [{ ...rules, topK: 0, topP: 1 }] })));
      steps += 2;
    }
    // Several tokens drawn of one, which go again; pages that outlive their sequence, and a reader that goes back.
    await decoder.drawBatch([
      { ...part(0, 5), draw: new Array(5).fill(rules) },
      { ...part(1, 1), draw: [rules] },
    ]);
    sequence.truncate(sequence.length - 4);
    await decoder.drawBatch([{ ...part(0, 3), draw: [rules, rules] }]);
    const pages = [0, 1, 2].map((index) => sequence.sharePage(index));
    sequence.dispose();
    others[2].truncate(0);
    others[2].adoptPages(0, pages);
    for (const page of pages) page.dispose();
    for (const length of [70, 1]) {
      await others[2].forward(part(2, length).ids, new Float32Array(vocabSize));
      others[2].truncate(others[2].length - 1);
    }
    others[2].truncate(150);
    if (others[2].length !== 128) throw new Error(`Expected 128 tokens, got ${others[2].length}`);
    await others[2].forward(part(2, 9).ids, new Float32Array(vocabSize));
    steps += 5;
    for (const one of others) one.dispose();
  }
  decoder.dispose();
  for (const one of [layer.qkv, layer.attentionOutput, layer.mlpUp, layer.mlpDown, output]) one.dispose();
}
if (backend.liveBytes() !== 0) throw new Error(`Expected no live memory, got ${backend.liveBytes()} bytes`);
process.stdout.write(`${steps} steps\n`);
