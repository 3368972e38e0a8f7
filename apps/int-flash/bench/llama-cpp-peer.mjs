// llama.cpp by node-llama-cpp, for llama-cpp.bench.mjs: a prompt read and tokens written after it, the median of some rounds after one, as JSON.
//   node llama-cpp-peer.mjs FOLDER model.gguf prompt new threads rounds     FOLDER: where node-llama-cpp is installed
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { median } from '../../../tools/median.mjs';

const [folder, modelPath, ...numbers] = process.argv.slice(2);
const [prompt, written, threads, rounds] = numbers.map(Number);
const { resolve: find } = createRequire(join(resolve(folder), 'package.json'));
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(find('node-llama-cpp')).href);

const llama = await getLlama({ gpu: false, build: 'never', maxThreads: threads, logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({
  contextSize: prompt + written + 64,
  batchSize: 512,
  threads,
  flashAttention: true,
});
const sequence = context.getSequence();
const tokens = Array.from({ length: prompt }, (_, i) => 2 + ((i * 7919) % 4000));
const rates = { prefill: [], decode: [] };
for (let round = 0; round <= rounds; round++) {
  await sequence.clearHistory();
  const start = performance.now();
  await sequence.evaluateWithoutGeneratingNewTokens(tokens);
  const read = performance.now();
  let count = 0;
  for await (const _ of sequence.evaluate([5], { temperature: 0 })) if (++count === written) break;
  if (count < written) throw new Error(`Expected ${written} tokens, got ${count}`);
  if (round === 0) continue; // warms up
  rates.prefill.push((1000 * prompt) / (read - start));
  rates.decode.push((1000 * written) / (performance.now() - read));
}
const { release } = llama.llamaCppRelease;
process.stdout.write(`${JSON.stringify({ release, prefill: median(rates.prefill), decode: median(rates.decode) })}\n`);
process.exit(0); // its threads would keep the process
