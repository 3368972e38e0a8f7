import { readFileSync } from 'node:fs';

/** From the package.json beside dist/ (and beside src/). */
export const VERSION: string = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')).version;
