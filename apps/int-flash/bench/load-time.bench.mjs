// How long a checkpoint that `int-flash quantize` wrote takes until its first token, beside the float checkpoint that it was made from. Random weights in
// bfloat16 with the shapes of known models (decoder-shapes.json), the demo's tokenizer; each loaded in a process of its own, its file in the system's cache.
// `quantizeSeconds`: writing it; `loadSeconds`: loadModel; `firstTokenSeconds`: a first token of a short prompt after that; `gigabytes`: of the weight file;
// `residentGigabytes`: of the process then. Prints a table and, without --quick, keeps each line in docs/results/cpu/load-time.jsonl. Build first.
//   node apps/int-flash/bench/load-time.bench.mjs [--models Llama-3.2-1B] [--weights float,int8,int4] [--quick]
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { keepLine } from '../../../tools/keep-line.mjs';
import { namesOf } from '../../../tools/listed-options.mjs';
import { measuredOn } from '../../../tools/measured-on.mjs';
import { runNode } from '../../../tools/process.mjs';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const { values: given } = parseArgs({
  options: {
    models: { type: 'string' },
    weights: { type: 'string', default: 'float,int8,int4' },
    quick: { type: 'boolean', default: false },
    load: { type: 'string' }, // a process that this one starts: loads the folder and says how long that took
  },
  strict: false, // `npm run bench` hands every benchmark the same arguments
});

if (typeof given.load === 'string') await load(given.load);
else await run();

async function run() {
  const shapes = JSON.parse(readFileSync(join(root, 'packages/kernels-cuda/bench/decoder-shapes.json'), 'utf8'));
  const names = namesOf('models', given.models ?? (given.quick ? 'demo' : 'Llama-3.2-1B'), Object.keys(shapes));
  const kinds = namesOf('weights', given.weights, ['float', 'int8', 'int4']);
  for (const name of names) {
    const folder = mkdtempSync(join(tmpdir(), 'int-flash-load-time-'));
    try {
      const float = join(folder, 'float');
      writeRandomCheckpoint(float, shapes[name]);
      for (const weights of kinds) {
        const quantizeSeconds = weights === 'float' ? undefined : await quantize(float, join(folder, weights), weights);
        show({
          bench: 'load-time',
          ...measuredOn(),
          model: name,
          weights,
          quantizeSeconds,
          ...(await loaded(join(folder, weights))),
        });
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  }
}

function show(line) {
  const { model, weights, quantizeSeconds, gigabytes, loadSeconds, firstTokenSeconds, residentGigabytes } = line;
  const written = quantizeSeconds === undefined ? '' : `, written in ${quantizeSeconds} s`;
  console.log(
    `${model} ${weights}: ${gigabytes} GB${written}, loaded in ${loadSeconds} s, first token ${firstTokenSeconds} s later, ${residentGigabytes} GB resident`,
  );
  if (given.quick) return;
  mkdirSync(join(root, 'docs/results/cpu'), { recursive: true });
  keepLine(join(root, 'docs/results/cpu/load-time.jsonl'), line, ({ model, weights }) => [model, weights]);
}

async function quantize(from, to, weights) {
  const started = performance.now();
  const bits = weights === 'int4' ? '4' : '8';
  const { status, output } = await runNode([
    join(root, 'apps/int-flash/dist/cli.js'),
    'quantize',
    from,
    to,
    '--bits',
    bits,
  ]);
  if (status !== 0) throw new Error(`Expected int-flash quantize to write ${to}, it ended with ${status}: ${output}`);
  return seconds(started);
}

/** What {@link load} says of a folder, in another process. */
async function loaded(folder) {
  const { status, output } = await runNode([fileURLToPath(import.meta.url), '--load', folder]);
  if (status !== 0) throw new Error(`Expected ${folder} to load, it ended with ${status}: ${output}`);
  return JSON.parse(output.trim().split('\n').at(-1));
}

async function load(folder) {
  const { loadModel } = await import('@int-flash/llm');
  const started = performance.now();
  const model = await loadModel(folder);
  const loadSeconds = seconds(started);
  const asked = performance.now();
  for await (const _ of model.generate([3, 5, 7, 11], { maxTokens: 1, temperature: 0, ignoreEos: true }));
  const gigabytes = (bytes) => Number((bytes / 1e9).toFixed(2));
  const told = {
    gigabytes: gigabytes(statSync(join(folder, 'model.safetensors')).size),
    loadSeconds,
    firstTokenSeconds: seconds(asked),
    residentGigabytes: gigabytes(process.memoryUsage().rss),
  };
  await model.dispose();
  console.log(JSON.stringify(told));
}

function seconds(since) {
  return Number(((performance.now() - since) / 1000).toFixed(2));
}

/** A folder as transformers writes it: Llama's or, with head norms, Qwen3's layers. */
function writeRandomCheckpoint(folder, shape) {
  mkdirSync(folder);
  const { layers, hiddenSize, heads, kvHeads, headDim, intermediateSize, vocabSize, tied, headNorms } = shape;
  const config = {
    architectures: [headNorms ? 'Qwen3ForCausalLM' : 'LlamaForCausalLM'],
    model_type: headNorms ? 'qwen3' : 'llama',
    vocab_size: vocabSize,
    hidden_size: hiddenSize,
    num_hidden_layers: layers,
    intermediate_size: intermediateSize,
    head_dim: headDim,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    hidden_act: 'silu',
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    max_position_embeddings: 4096,
    tie_word_embeddings: tied,
    bos_token_id: 0,
    eos_token_id: 1,
    torch_dtype: 'bfloat16',
  };
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  for (const file of ['tokenizer.json', 'tokenizer_config.json'])
    copyFileSync(join(root, 'models/int-flash-demo', file), join(folder, file));
  const layer = (index) => {
    const at = `model.layers.${index}`;
    return [
      [`${at}.self_attn.q_proj.weight`, heads * headDim, hiddenSize],
      [`${at}.self_attn.k_proj.weight`, kvHeads * headDim, hiddenSize],
      [`${at}.self_attn.v_proj.weight`, kvHeads * headDim, hiddenSize],
      [`${at}.self_attn.o_proj.weight`, hiddenSize, heads * headDim],
      [`${at}.mlp.gate_proj.weight`, intermediateSize, hiddenSize],
      [`${at}.mlp.up_proj.weight`, intermediateSize, hiddenSize],
      [`${at}.mlp.down_proj.weight`, hiddenSize, intermediateSize],
      [`${at}.input_layernorm.weight`, hiddenSize],
      [`${at}.post_attention_layernorm.weight`, hiddenSize],
      ...(headNorms
        ? [`${at}.self_attn.q_norm.weight`, `${at}.self_attn.k_norm.weight`].map((norm) => [norm, headDim])
        : []),
    ];
  };
  writeRandomSafetensors(join(folder, 'model.safetensors'), [
    ['model.embed_tokens.weight', vocabSize, hiddenSize],
    ...(tied ? [] : [['lm_head.weight', vocabSize, hiddenSize]]),
    ['model.norm.weight', hiddenSize],
    ...Array.from({ length: layers }, (_, index) => layer(index)).flat(),
  ]);
}

function writeRandomSafetensors(path, tensors) {
  const header = {};
  let end = 0;
  for (const [name, ...shape] of tensors) {
    const bytes = 2 * shape.reduce((product, dim) => product * dim, 1);
    header[name] = { dtype: 'BF16', shape, data_offsets: [end, end + bytes] };
    end += bytes;
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  // Numbers between 2^-7 and 2^-5 of either sign: the sign, seven of the exponent's bits and the rest at random.
  const block = new Uint16Array(2 ** 20);
  let state = 1;
  for (let i = 0; i < block.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    block[i] = ((state >>> 31) << 15) | (0x3c00 + ((state >>> 16) & 0xff));
  }
  const random = Buffer.from(block.buffer);
  const file = openSync(path, 'w');
  try {
    writeSync(file, length);
    writeSync(file, json);
    for (let left = end; left > 0; left -= random.length) writeSync(file, random, 0, Math.min(random.length, left));
  } finally {
    closeSync(file);
  }
}
