// What a GPU gains from prompts that begin alike and from guessing ahead: time to the first token of a prompt that is new, and of one whose beginning
// was read before; tokens a second of an answer that repeats itself, without guesses and with up to 7. Random weights of a known shape
// (decoder-shapes.json), but for `demo`, which is the model itself. Checks first that all of these answers are the same. Prints a table, with --json lines instead. Build first.
//   node apps/int-flash/bench/prompt-reuse.bench.mjs [--models demo,Llama-3.2-1B] [--prompt 4096] [--kv int8,int4] [--json] [--commit name]

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { status } from '@int-flash/attention';
import { loadModel, loadRandomModel } from '@int-flash/llm';
import { countsOf, namesOf } from '../../../tools/listed-options.mjs';
import { measuredOn } from '../../../tools/measured-on.mjs';
import { median } from '../../../tools/median.mjs';

const { values: options } = parseArgs({
  options: {
    models: { type: 'string', default: 'Llama-3.2-1B' },
    prompt: { type: 'string', default: '4096' },
    kv: { type: 'string', default: 'int8,int4' },
    json: { type: 'boolean', default: false },
    commit: { type: 'string' },
  },
  strict: false, // `npm run bench` hands every benchmark the same arguments
});
const SHAPES = JSON.parse(
  readFileSync(new URL('../../../packages/kernels-cuda/bench/decoder-shapes.json', import.meta.url), 'utf8'),
);
const models = namesOf('models', options.models, Object.keys(SHAPES));
const prompts = countsOf('prompt', options.prompt, 65); // a page, and a token that is always computed
const cacheTypes = namesOf('kv', options.kv, ['int8', 'int4']);
const ROUNDS = 5;
const NEW_TOKENS = 256;
let begun = 0; // prompts so far
const cuda = status().backends.find(({ name }) => name === 'cuda');
if (!cuda.available) {
  if (!options.json) console.log(`prompt-reuse: skipped, ${cuda.detail}`);
  process.exit();
}

for (const name of models) {
  const model = await load(name);
  for (const kvCacheDtype of cacheTypes) {
    for (const prompt of prompts) {
      const length = Math.min(prompt, model.contextLength - NEW_TOKENS - 1);
      tell({ model: name, cache: kvCacheDtype, prompt: length, ...(await measure(model, kvCacheDtype, length)) });
    }
  }
  await model.dispose();
}

function load(name) {
  const settings = { backend: 'cuda' };
  if (name === 'demo')
    return loadModel(fileURLToPath(new URL('../../../models/int-flash-demo', import.meta.url)), settings);
  const { layers, hiddenSize, heads, kvHeads, headDim, intermediateSize, vocabSize, tied, headNorms } = SHAPES[name];
  const config = {
    model_type: headNorms ? 'qwen3' : 'llama',
    vocab_size: vocabSize,
    hidden_size: hiddenSize,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    intermediate_size: intermediateSize,
    max_position_embeddings: 16384,
    rms_norm_eps: 1e-5,
    rope_theta: 500000,
    tie_word_embeddings: tied,
  };
  return loadRandomModel(config, settings);
}

/** Tokens that no other prompt begins with. */
function freshPrompt(model, length) {
  const first = ++begun;
  return Array.from({ length }, (_, i) => 2 + ((first * 7919 + i * 104729 + i * i) % (model.config.vocabSize - 2)));
}

async function answer(model, prompt, more) {
  const ids = [];
  const generation = model.generate(prompt, { temperature: 0, ignoreEos: true, ...more });
  for await (const { tokenId } of generation) ids.push(tokenId);
  return { ids, ...generation.stats };
}

async function measure(model, kvCacheDtype, length) {
  const one = { kvCacheDtype, maxTokens: 1 };
  await answer(model, freshPrompt(model, length), one); // warms up
  const times = { fresh: [], reused: [] };
  for (let round = 0; round < ROUNDS; round++) {
    const prompt = freshPrompt(model, length);
    const fresh = await answer(model, prompt, one);
    const { found } = model.status().prefixes;
    const reused = await answer(model, prompt, one);
    if (fresh.ids[0] !== reused.ids[0] || model.status().prefixes.found === found)
      throw new Error('Expected the same answer from pages that were kept');
    times.fresh.push(fresh.timeToFirstToken);
    times.reused.push(reused.timeToFirstToken);
  }
  // Behind a beginning of few tokens, so that an answer's time is that of its tokens; a phrase in it to find again.
  const phrase = freshPrompt(model, length).slice(0, 40);
  const runs = { plain: [], guessing: [] };
  let expected;
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, speculate] of [
      ['plain', 0],
      ['guessing', 7],
    ]) {
      const run = await answer(model, [...phrase, ...phrase], { kvCacheDtype, maxTokens: NEW_TOKENS, speculate });
      expected ??= run.ids.join();
      if (run.ids.join() !== expected) throw new Error('Expected guesses to change no answer');
      runs[name].push(run);
    }
  }
  const rate = (all) => median(all.map(({ tokensPerSecond }) => tokensPerSecond));
  const { guessedTokens, acceptedTokens } = runs.guessing[0];
  return {
    firstTokenMs: round(median(times.fresh)),
    firstTokenReusedMs: round(median(times.reused)),
    tokensPerSecond: round(rate(runs.plain)),
    tokensPerSecondGuessing: round(rate(runs.guessing)),
    guessedTokens,
    acceptedTokens,
  };
}

function tell(found) {
  const gpu = cuda.detail.split(' (')[0];
  const line = { bench: 'prompt-reuse', gpu, commit: options.commit ?? measuredOn().commit, ...found };
  if (options.json) console.log(JSON.stringify(line));
  else
    console.log(
      `${line.model} ${line.cache}: first token of ${line.prompt} after ${line.firstTokenMs} ms, of a prompt read before ${line.firstTokenReusedMs} ms; ` +
        `${line.tokensPerSecond} tokens/s, guessing ${line.tokensPerSecondGuessing} (${line.acceptedTokens} of ${line.guessedTokens} right)`,
    );
}

function round(value) {
  return Math.round(value * 100) / 100;
}
