import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import * as provider from '../src/index.js';

describe('README', () => {
  it('names what the front door exports and the options it takes', () => {
    const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
    for (const name of Object.keys(provider)) expect(readme).toContain(name);
    const source = readFileSync(new URL('../src/generation-call.ts', import.meta.url), 'utf8');
    const options = [.../OWN_OPTIONS = \[([^\]]*)\]/.exec(source)![1]!.matchAll(/'(\w+)'/g)].map(([, name]) => name);
    expect(options.length).toBeGreaterThan(3);
    for (const name of options) expect(readme).toContain(`\`${name}\``);
  });
});
