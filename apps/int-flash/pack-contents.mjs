// Puts the demo model, the chat page and the licence into the package while it is packed (`prepack`) and takes them out again
// (`postpack`): so `npx int-flash demo --web` needs no download, and the repository holds each once.
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

const MODEL_FILES = [
  'config.json',
  'generation_config.json',
  'model.safetensors',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'MODEL_CARD.md',
  'LICENSE.md',
  'ATTRIBUTION.txt',
  'eval_sgd.txt', // what `reproduce` measures perplexity on
  'eval_oz.txt',
];
const model = { from: '../../models/int-flash-demo/', to: './model/int-flash-demo/' };
const page = { from: '../web/dist/', to: './web/' };

// pnpm adds the licence by itself, but not where a file below has a name like it.
const licence = { from: '../../', to: './' };

for (const added of ['./model/', page.to, './LICENSE'])
  rmSync(new URL(added, import.meta.url), { recursive: true, force: true });
if (process.argv[2] === 'add') {
  add(model, MODEL_FILES);
  const list = new URL(`${page.from}files.json`, import.meta.url);
  if (!existsSync(list)) throw new Error('Expected the chat page to be built: run npm run build first');
  const served = JSON.parse(readFileSync(list, 'utf8')).map(({ file }) => file);
  add(page, ['files.json', 'THIRD_PARTY_LICENSES.txt', ...served]);
  add(licence, ['LICENSE']);
}

function add({ from, to }, names) {
  for (const name of names) {
    const source = fileURLToPath(new URL(`${from}${name}`, import.meta.url));
    const target = fileURLToPath(new URL(`${to}${name}`, import.meta.url));
    if (!existsSync(source)) throw new Error(`Expected ${source} to pack`);
    mkdirSync(dirname(target), { recursive: true });
    cpSync(source, target);
  }
}
