// What a GPU gains from prompts that begin alike and from guessing ahead: time to the first token of a prompt that is new, and of one whose beginning
// was read before; tokens a second of an answer that repeats itself, without guesses and with up to 7. Random weights of a known shape. Checks first that
// all of these answers are the same. Prints a table, with --json lines instead. Build first.
//   node apps/int-flash/bench/prompt-reuse.bench.mjs [--model demo|1B|8B] [--prompt 4096] [--kv int8,int4] [--json] [--commit name]

import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { status } from '@int-flash/attention';
import { loadModel, loadRandomModel } from '@int-flash/llm';
import { measuredOn } from '../../../tools/measured-on.mjs';

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: '1B' },
    prompt: { type: 'string', default: '4096' },
    kv: { type: 'string', default: 'int8,int4' },
    json: { type: 'boolean', default: false },
    commit: { type: 'string' },
  },
  strict: false, // `npm run bench` hands every benchmark the same arguments
});
const SHAPES = {
  '1B': { hidden_size: 2048, num_hidden_layers: 16, head_dim: 64, intermediate_size: 8192 },
  '8B': { hidden_size: 4096, num_hidden_layers: 32, head_dim: 128, intermediate_size: 14336 },
};
const ROUNDS = 5;
const NEW_TOKENS = 256;
const cuda = status().backends.find(({ name }) => name === 'cuda');
if (!cuda.available) {
  if (!options.json) console.log(`prompt-reuse: skipped, ${cuda.detail}`);
  process.exit();
}

const settings = { backend: 'cuda' };
const model =
  options.model === 'demo'
    ? await loadModel(fileURLToPath(new URL('../../../models/int-flash-demo', import.meta.url)), settings)
    : await loadRandomModel(
        {
          model_type: 'llama',
          vocab_size: 128256,
          num_attention_heads: 32,
          num_key_value_heads: 8,
          max_position_embeddings: 16384,
          rms_norm_eps: 1e-5,
          rope_theta: 500000,
          tie_word_embeddings: true,
          ...SHAPES[options.model],
        },
        settings,
      );
const length = Math.min(Number(options.prompt), model.contextLength - NEW_TOKENS - 1);

/** Tokens that no other prompt begins with. */
let prompts = 0;
function freshPrompt() {
  const first = ++prompts;
  return Array.from({ length }, (_, i) => 2 + ((first * 7919 + i * 104729 + i * i) % (model.config.vocabSize - 2)));
}

async function answer(prompt, more) {
  const ids = [];
  const generation = model.generate(prompt, { temperature: 0, ignoreEos: true, ...more });
  for await (const { tokenId } of generation) ids.push(tokenId);
  return { ids, ...generation.stats };
}

for (const kvCacheDtype of options.kv.split(',')) {
  const one = { kvCacheDtype, maxTokens: 1 };
  await answer(freshPrompt(), one); // warms up
  const times = { fresh: [], reused: [] };
  for (let round = 0; round < ROUNDS; round++) {
    const prompt = freshPrompt();
    const fresh = await answer(prompt, one);
    const { found } = model.status().prefixes;
    const reused = await answer(prompt, one);
    if (fresh.ids[0] !== reused.ids[0] || model.status().prefixes.found === found)
      throw new Error('Expected the same answer from pages that were kept');
    times.fresh.push(fresh.timeToFirstToken);
    times.reused.push(reused.timeToFirstToken);
  }
  // Behind a beginning of few tokens, so that an answer's time is that of its tokens; a phrase in it to find again.
  const phrase = freshPrompt().slice(0, 40);
  const runs = { plain: [], guessing: [] };
  let expected;
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, speculate] of [
      ['plain', 0],
      ['guessing', 7],
    ]) {
      const run = await answer([...phrase, ...phrase], { kvCacheDtype, maxTokens: NEW_TOKENS, speculate });
      expected ??= run.ids.join();
      if (run.ids.join() !== expected) throw new Error('Expected guesses to change no answer');
      runs[name].push(run);
    }
  }
  const rate = (all) => median(all.map(({ tokensPerSecond }) => tokensPerSecond));
  const { guessedTokens, acceptedTokens } = runs.guessing[0];
  const line = {
    bench: 'prompt-reuse',
    gpu: cuda.detail.split(' (')[0],
    commit: options.commit ?? measuredOn().commit,
    model: options.model,
    cache: kvCacheDtype,
    prompt: length,
    firstTokenMs: round(median(times.fresh)),
    firstTokenReusedMs: round(median(times.reused)),
    tokensPerSecond: round(rate(runs.plain)),
    tokensPerSecondGuessing: round(rate(runs.guessing)),
    guessedTokens,
    acceptedTokens,
  };
  if (options.json) console.log(JSON.stringify(line));
  else
    console.log(
      `${line.model} ${line.cache}: first token of ${length} after ${line.firstTokenMs} ms, of a prompt read before ${line.firstTokenReusedMs} ms; ` +
        `${line.tokensPerSecond} tokens/s, guessing ${line.tokensPerSecondGuessing} (${acceptedTokens} of ${guessedTokens} right)`,
    );
}
await model.dispose();

function median(values) {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}

function round(value) {
  return Math.round(value * 100) / 100;
}
