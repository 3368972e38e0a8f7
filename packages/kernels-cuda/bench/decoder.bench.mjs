// Prefill and decode of whole decoders on the GPU, in llama-bench's words: pp8192 reads 8,192 tokens of one sequence (`--prompt`) behind `--context` tokens,
// ttft_ms is the time from an empty sequence of `--context` tokens to its first new token, tg128 writes 128 in each of `--batch` sequences of that length, a
// step at a time, each token drawn on the device (the time of each call in JavaScript; tokens/s are of all sequences together). Shapes of known models
// (decoder-shapes.json), random weights: all layers share one layer's, which are larger than a GPU's L2 cache from 1B on, so each layer still reads them from
// memory. The output layer computes in float32, as in llm, on weights that bfloat16 holds. A cache on a GPU has codes, INT8 or INT4: one in 16 bits is the peer's.
// Checks first that decoding gives the logits of reading. `limit`: the part of the time that reading weights and cache once a token would take
// at the rate that a copy within the device moves bytes in the same run. What does not fit the memory is said and left out; so is what `--seconds` leave no
// time to begin. `--out` keeps each line as soon as it is known, in place of the one about the same: slices of the matrix add up. `--peers`:
// transformers_peer.py afterwards, with the same contexts, batches and prompts on `--peer-models`, as far as `--peer-seconds` go; compiling takes it some 30
// seconds for each model, context and batch.
//   node packages/kernels-cuda/bench/decoder.bench.mjs [--models Llama-3.2-1B,Llama-3.1-8B,Qwen3-0.6B,Qwen3-8B,demo] [--context 0,512,8192,65536]
//     [--batch 1,8,64] [--prompt 512,8192|none] [--kv int8,int4] [--weights int8|int4] [--seconds 200] [--out lines.jsonl] [--peers]
//     [--peer-models Llama-3.1-8B] [--peer-seconds 240] [--json] [--commit name]
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { keepLine } from '../../../tools/keep-line.mjs';
import { countsOf, namesOf } from '../../../tools/listed-options.mjs';
import { measuredOn } from '../../../tools/measured-on.mjs';
import { median } from '../../../tools/median.mjs';
import { createCudaBackend, cudaStatus, openCudaDevice } from '../dist/index.js';
import { random, randomDecoder } from './random-decoder.mjs';

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
    seconds: { type: 'string', default: '100000' },
    out: { type: 'string' },
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
const prompts = options.prompt === 'none' ? [] : countsOf('prompt', options.prompt);
const cacheTypes = namesOf('kv', options.kv, ['int8', 'int4']);
const [weightType] = namesOf('weights', options.weights, ['int8', 'int4']);
const [seconds] = countsOf('seconds', options.seconds);
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
  if (typeof options.out === 'string')
    keepLine(options.out, line, ({ peer, model, weights, cache, context, batch, prompt, ttft_ms }) => [
      ...[peer, model, weights, cache, context, batch, prompt],
      ttft_ms === undefined,
    ]);
};
const rounded = (x, digits) => Number(x.toFixed(digits));
say(
  `decoder: ${backend ? `${device.name}, a copy moves ${(copyRate / 1e9).toFixed(0)} GB/s` : `skipped, ${status.detail}`}`,
);
if (backend) say('model         context cache            tokens/s  of the limit');

const end = performance.now() + 1e3 * seconds;
/** Tokens of a context that are computed together: the most that the runtime takes; behind many keys it takes fewer. */
const CHUNK = 8192;
/** Of the memory: what is no page and no weight. */
const BESIDES = 4 * 2 ** 30;
const totalBytes = device ? (await device.memory()).total : 0;
const leftOut = [];

for (const name of backend ? models : []) {
  if (isOver(name)) continue;
  const began = performance.now();
  const longest = Math.max(...contexts) + Math.max(...prompts, 0) + 512;
  const { dispose, ...made } = randomDecoder(backend, SHAPES[name], weightType, longest);
  say(`${name}: weights made in ${((performance.now() - began) / 1e3).toFixed(1)} s`);
  for (const context of contexts)
    for (const cacheType of cacheTypes)
      if (!isOver(`${name}, ${context}, ${cacheType}`)) await bench({ name, ...made }, context, cacheType);
  dispose();
}
for (const what of leftOut) console.error(`left out: ${what}`);

/** Notes what there is no time to begin. */
function isOver(what) {
  if (performance.now() < end) return false;
  leftOut.push(`${what}: ${seconds} s are over`);
  return true;
}

async function bench({ name, decoder, weightBytes }, context, cacheType) {
  const shape = SHAPES[name];
  const ids = (length) => Int32Array.from({ length }, () => Math.floor(((random() + 1) / 2) * shape.vocabSize));
  const draw = [{ temperature: 0, topK: 0, topP: 1, minP: 0, uniform: 0, vocabulary: shape.vocabSize }];
  const logits = new Float32Array(shape.vocabSize);
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
  const show = (title, figure, limit) =>
    say(
      `${name.padEnd(13)}${String(context).padStart(8)}${cacheType.padStart(6)}  ${title.padEnd(12)}${figure.toFixed(0).padStart(7)}${limit ? `${(limit * 100).toFixed(0)}%`.padStart(14) : ''}`,
    );
  const sequences = [];
  const times = [];
  /** One more sequence of `context` tokens. @returns false where the memory does not last */
  const add = async () => {
    const { pageBytes } = backend.decoderMemory(shape);
    const pages = Math.ceil((context + Math.max(...prompts, 136)) / 64);
    if (backend.liveBytes() + pages * pageBytes[cacheType] > totalBytes - BESIDES) return false;
    const sequence = decoder.createSequence(cacheType);
    sequences.push(sequence);
    const started = performance.now();
    try {
      for (let read = 0; read < context; read += CHUNK)
        await decoder.drawBatch([{ sequence, ids: ids(Math.min(CHUNK, context - read)), draw }]);
    } catch (error) {
      if (error.code !== 'ERR_OOM') throw error;
      sequences.pop().dispose();
      return false;
    }
    times.push(performance.now() - started);
    return true;
  };

  await expectSameLogits(decoder, cacheType, ids(20), shape.vocabSize);
  try {
    // The first one makes the memory that steps take.
    for (let i = 0; i < (context > CHUNK ? 1 : 4); i++) {
      sequences.pop()?.dispose();
      if (!(await add())) return void leftOut.push(`${name}, ${context}, ${cacheType}: does not fit the memory`);
    }
    if (context > 0) {
      const first = median(times.length > 1 ? times.slice(1) : times);
      tell({ ...what, ttft_ms: rounded(first, 2) });
      show('ttft_ms', first);
    }
    for (const prompt of prompts) {
      if (isOver(`${name}, ${context}, ${cacheType}, pp${prompt}`)) continue;
      const [first] = sequences;
      const reads = [];
      for (let i = 0; i < 6; i++) {
        const tokens = ids(prompt);
        const started = performance.now();
        await first.forward(tokens, logits);
        if (i > 0) reads.push(performance.now() - started);
        first.truncate(context);
      }
      const read = (prompt * 1e3) / median(reads);
      tell({ ...what, prompt, read: rounded(read, 1) });
      show(`pp${prompt}`, read);
    }
    for (const batch of batches) {
      const title = `${name}, ${context}, ${cacheType}, tg128 x ${batch}`;
      while (sequences.length < batch && !isOver(title))
        if (!(await add())) {
          leftOut.push(`${title}: does not fit the memory`);
          break;
        }
      if (sequences.length < batch) break;
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
  } finally {
    for (const sequence of sequences) sequence.dispose();
  }
}

const gpuName = device?.name;
device?.dispose();
if (backend && options.peers) await runPeers();
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

async function runPeers() {
  const script = fileURLToPath(new URL('transformers_peer.py', import.meta.url));
  const asked = { models: peerModels, context: contexts, batch: batches, prompt: prompts, seconds: peerSeconds };
  const args = Object.entries(asked).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const child = spawn('python3', [script, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: (peerSeconds + 60) * 1e3, // for imports that hang
  });
  const ended = new Promise((resolve) => child.on('error', resolve).on('close', resolve));
  for await (const text of createInterface({ input: child.stdout })) compare(JSON.parse(text));
  if ((await ended) !== 0)
    console.error('peers are not complete: python3 with PyTorch and transformers did not run to its end');
}

/** A peer's line, beside ours of the same. */
function compare(line) {
  const { model, context, batch, prompt, tg128, read } = line;
  const isSame = (ours) =>
    !ours.peer && ours.model === model && ours.context === context && ours.batch === batch && ours.prompt === prompt;
  for (const ours of told.filter((other) => isSame(other) && !other.ttft_ms)) {
    const what = prompt ? `pp${prompt}` : `tg128 x ${batch}`;
    const times = ((ours.tg128 ?? ours.read) / (tg128 ?? read)).toFixed(2);
    say(
      `${model}, behind ${context}, ${what}: transformers ${(tg128 ?? read).toFixed(0)}, ours with a cache in ${ours.cache} ${times} times that`,
    );
  }
  tell({ ...line, gpu: gpuName, commit });
}
