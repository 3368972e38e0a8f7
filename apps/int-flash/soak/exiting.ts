// A program that ends while the library computes: how is the argument. exits.ts looks at its exit code and at what it writes.
import { type AttentionInputs, intFlashAttention } from '@int-flash/attention';
import { loadModel } from '@int-flash/llm';
import { makeInputs } from '@int-flash/reference';

const [how, delayMs] = [process.argv[2], Number(process.argv[3])];
const inputs = makeInputs('normal', { heads: 4, queries: 1500, keys: 1500, headDim: 64 }, 1) as AttentionInputs;
const model = await loadModel('models/int-flash-demo');

const decoding = (async () => {
  for await (const _ of model.generate('Tell me a story.', {
    maxTokens: how === 'natural' ? 8 : 900,
    ignoreEos: true,
  }));
})();
void intFlashAttention(inputs);
setTimeout(() => {
  if (how === 'exit') process.exit(7);
  if (how === 'throw') throw 'on purpose'; // a string: Node then writes no stack, and the line can be compared
}, delayMs);
await decoding;
