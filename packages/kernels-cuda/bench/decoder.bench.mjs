// Prefill and decode of whole decoders on the GPU, in llama-bench's words: pp8192 reads 8,192 tokens of one sequence (`--prompt`), tg128 writes 128 in each of
// `--batch` sequences, a step at a time, each token drawn on the device (the time of each call in JavaScript; tokens/s are of all sequences
// together). Shapes of known models (decoder-shapes.json), random weights: all layers share one layer's, which are larger than a GPU's L2 cache from 1B on,
// so each layer still reads them from memory. The output layer computes in float32, as in llm, on weights that bfloat16 holds.
// Checks first that decoding gives the logits of reading. `limit`: the part of the time that reading weights and cache once a token would take
// at the rate that a copy within the device moves bytes in the same run. `--peers`: transformers_peer.py afterwards, with the same batches and
// prompts on `--peer-models`, as far as `--peer-seconds` go; compiling takes it some 50 seconds for each model and batch.
//   node packages/kernels-cuda/bench/decoder.bench.mjs [--models Llama-3.2-1B,Llama-3.1-8B,Qwen3-0.6B,Qwen3-8B,demo] [--context 0,8192] [--batch 1,8,64]
//     [--prompt 512,8192] [--kv int8,int4] [--weights int8|int4] [--peers] [--peer-models Llama-3.1-8B] [--peer-seconds 240] [--json] [--commit name]
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { countsOf, namesOf } from '../../../tools/listed-options.mjs';
import { measuredOn } from '../../../tools/measured-on.mjs';
import { median } from '../../../tools/median.mjs';
import { createCudaBackend, cudaStatus, openCudaDevice } from '../dist/index.js';

const { values: options } = parseArgs({
  options: {
    models: { type: 'string', default: 'Llama-3.2-1B,Llama-3.1-8B,Qwen3-0.6B,Qwen3-8B' },
    context: { type: 'string', default: '0' },
    batch: { type: 'string', default: '1,64' },
    prompt: { type: 'string', default: '8192' },
    kv: { type: 'string', default: 'int8,int4' },
    weights: { type: 'string', default: 'int8' },
    peers: { type: 'boolean', default: false },
    'peer-models': { type: 'string', default: 'Llama-3.1-8B' },
    'peer-seconds': { type: 'string', default: '240' },
    json: { type: 'boolean', default: false },
    commit: { type: 'string' },
  },
  strict: false, // `npm run bench` hands every benchmark the same arguments
});
const SHAPES = JSON.parse(readFileSync(new URL('decoder-shapes.json', import.meta.url), 'utf8'));
const models = namesOf('models', options.models, Object.keys(SHAPES));
const peerModels = namesOf('peer-models', options['peer-models'], Object.keys(SHAPES));
const contexts = countsOf('context', options.context, 0);
const batches = countsOf('batch', options.batch);
const prompts = countsOf('prompt', options.prompt);
const cacheTypes = namesOf('kv', options.kv, ['int8', 'int4']);
const [weightType] = namesOf('weights', options.weights, ['int8', 'int4']);
const [peerSeconds] = countsOf('peer-seconds', options['peer-seconds']);
const commit = options.commit ?? measuredOn().commit;
const status = cudaStatus();
const backend = status.available ? createCudaBackend() : undefined;
const device = status.available ? openCudaDevice() : undefined;
const COPIED = 2 ** 29;
/** Bytes a second. */
const copyRate = device ? (2e3 * COPIED) / median(await device.timeCopy(COPIED, 10)) : 0;
const say = (line) => {
  if (!options.json) console.log(line);
};
const told = [];
const tell = (line) => {
  told.push(line);
  if (options.json) console.log(JSON.stringify(line));
};
const rounded = (x, digits) => Number(x.toFixed(digits));
say(
  `decoder: ${backend ? `${device.name}, a copy moves ${(copyRate / 1e9).toFixed(0)} GB/s` : `skipped, ${status.detail}`}`,
);
if (backend) say('model         context cache            tokens/s  of the limit');

let state = 1;
function random() {
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

function int8Linear(rows, cols) {
  const scales = new Float32Array(rows).fill(1 / (73 * Math.sqrt(cols)));
  return backend.createLinear({ type: 'int8', rows, cols, codes: numbers(CODES, rows * cols), scales });
}

/** Weights alone in 4 bits, a scale for 128 columns. */
function int4Linear(rows, cols) {
  const scales = new Float32Array((rows * cols) / 128).fill(1 / (4.6 * Math.sqrt(cols)));
  const packed = numbers(PACKED, (rows * cols) / 2);
  return backend.createLinear({ type: 'int4', rows, cols, packed, scales, group: 128 });
}

function decoderOf({ layers, hiddenSize, heads, kvHeads, headDim, intermediateSize, vocabSize, headNorms }, maxTokens) {
  const norm = { gain: new Float32Array(hiddenSize).fill(1), bias: undefined };
  const headNorm = headNorms ? new Float32Array(headDim).fill(1) : undefined;
  const [linear, bytesAWeight] = weightType === 'int4' ? [int4Linear, 0.5 + 4 / 128] : [int8Linear, 1];
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
  const shape = { hiddenSize, heads, kvHeads, headDim, intermediateSize, vocabSize, maxTokens };
  const decoder = backend.createDecoder({
    ...shape,
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

for (const name of backend ? models : []) {
  const shape = SHAPES[name];
  const began = performance.now();
  const { decoder, weightBytes, dispose } = decoderOf(shape, Math.max(...contexts) + Math.max(...prompts) + 512);
  say(`${name}: weights made in ${((performance.now() - began) / 1e3).toFixed(1)} s`);
  const ids = (length) => Int32Array.from({ length }, () => Math.floor(((random() + 1) / 2) * shape.vocabSize));
  const logits = new Float32Array(shape.vocabSize);
  for (const [context, cacheType] of contexts.flatMap((context) => cacheTypes.map((type) => [context, type]))) {
    await expectSameLogits(decoder, cacheType, ids(20), shape.vocabSize);
    const fill = async (sequence) => {
      for (let read = 0; read < context; read += 512)
        await sequence.forward(ids(Math.min(512, context - read)), logits);
    };
    const first = decoder.createSequence(cacheType);
    await fill(first);
    const what = {
      bench: 'decoder',
      gpu: device.name,
      commit,
      model: name,
      weights: weightType,
      context,
      cache: cacheType,
      copyGbPerS: rounded(copyRate / 1e9, 1),
    };
    const show = (title, rate, limit) =>
      say(
        `${name.padEnd(13)}${String(context).padStart(8)}${cacheType.padStart(6)}  ${title.padEnd(12)}${rate.toFixed(0).padStart(7)}${limit ? `${(limit * 100).toFixed(0)}%`.padStart(14) : ''}`,
      );
    for (const prompt of prompts) {
      const times = [];
      for (let i = 0; i < 6; i++) {
        const tokens = ids(prompt);
        const started = performance.now();
        await first.forward(tokens, logits);
        if (i > 0) times.push(performance.now() - started);
        first.truncate(context);
      }
      const read = (prompt * 1e3) / median(times);
      tell({ ...what, prompt, read: rounded(read, 1) });
      show(`pp${prompt}`, read);
    }
    const sequences = [first];
    for (const batch of batches) {
      while (sequences.length < batch) {
        sequences.push(decoder.createSequence(cacheType));
        await fill(sequences.at(-1));
      }
      const draw = [{ temperature: 0, topK: 0, topP: 1, minP: 0, uniform: 0, vocabulary: shape.vocabSize }];
      const step = () =>
        decoder.drawBatch(sequences.slice(0, batch).map((sequence) => ({ sequence, ids: ids(1), draw })));
      for (let i = 0; i < 8; i++) await step(); // warm-up
      const started = performance.now();
      for (let i = 0; i < 128; i++) await step();
      const perStep = (performance.now() - started) / 128;
      const rowBytes = cacheType === 'int4' ? shape.headDim : 2 * shape.headDim; // of a key and a value, scales beside
      const cacheBytes = batch * shape.layers * shape.kvHeads * (context + 72) * (rowBytes + 12);
      const limit = (weightBytes + cacheBytes) / copyRate / (perStep / 1000);
      const tg128 = (batch * 1e3) / perStep;
      tell({ ...what, batch, tg128: rounded(tg128, 1), limit: rounded(limit, 4) });
      show(`tg128 x ${batch}`, tg128, limit);
      for (const sequence of sequences) sequence.truncate(context);
    }
    for (const sequence of sequences) sequence.dispose();
  }
  dispose();
}
const gpuName = device?.name;
device?.dispose();
if (backend && options.peers) runPeers();
if (backend && backend.liveBytes() !== 0) throw new Error(`Expected no live memory, got ${backend.liveBytes()} bytes`);

/** Tokens one by one end in the logits of reading them together, to the bit: both kernels of each kind agree. */
async function expectSameLogits(decoder, cacheType, ids, vocabSize) {
  const [together, alone] = [new Float32Array(vocabSize), new Float32Array(vocabSize)];
  const sequence = decoder.createSequence(cacheType);
  await sequence.forward(ids.subarray(0, 8), together);
  await sequence.forward(ids.subarray(8), together);
  sequence.truncate(8);
  for (const id of ids.subarray(8)) await sequence.forward(Int32Array.of(id), alone);
  sequence.dispose();
  const odd = together.findIndex((logit, i) => logit !== alone[i] || !Number.isFinite(logit));
  if (odd !== -1) throw new Error(`Expected logit ${odd} to be ${together[odd]} both ways, got ${alone[odd]}`);
}

function runPeers() {
  const script = fileURLToPath(new URL('transformers_peer.py', import.meta.url));
  const asked = { models: peerModels, batch: batches, prompt: prompts, seconds: peerSeconds };
  const args = Object.entries(asked).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const { stdout, status: code } = spawnSync('python3', [script, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: (peerSeconds + 60) * 1e3, // for imports that hang
  });
  if (code !== 0) say('peers are not complete: python3 with PyTorch and transformers did not run to its end');
  for (const text of (stdout ?? '').split('\n').filter(Boolean)) {
    const line = JSON.parse(text);
    const { model, batch, prompt, tg128, read } = line;
    const isSame = (ours) =>
      ours.model === model && ours.context === 0 && ours.batch === batch && ours.prompt === prompt;
    for (const ours of told.filter(isSame))
      say(
        `${model}, ${prompt ? `pp${prompt}` : `tg128 x ${batch}`}: transformers ${(tg128 ?? read).toFixed(0)}, ours with a cache in ${ours.cache} ${((ours.tg128 ?? ours.read) / (tg128 ?? read)).toFixed(2)} times that`,
      );
    if (options.json) console.log(JSON.stringify({ ...line, gpu: gpuName, commit }));
  }
}
