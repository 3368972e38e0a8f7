// Puts the demo model into the package while it is packed (`prepack`) and takes it out again (`postpack`), so that
// `npx int-flash demo` needs no download and the repository holds the model once.
import { cpSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const FILES = [
  'config.json',
  'generation_config.json',
  'model.safetensors',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'MODEL_CARD.md',
  'LICENSE.md',
  'ATTRIBUTION.txt',
];
const from = new URL('../../models/int-flash-demo/', import.meta.url);
const to = new URL('./model/', import.meta.url);

rmSync(to, { recursive: true, force: true });
if (process.argv[2] === 'add') {
  const folder = new URL('int-flash-demo/', to);
  mkdirSync(folder, { recursive: true });
  for (const name of FILES) {
    if (!existsSync(new URL(name, from))) throw new Error(`Expected ${fileURLToPath(new URL(name, from))} to pack`);
    cpSync(new URL(name, from), new URL(name, folder));
  }
}
