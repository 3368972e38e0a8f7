#!/usr/bin/env node
// The documents as a site, in build/site:  node tools/site/build-site.mjs
// Pages are staged from the repository's Markdown, tables from docs/results, the API from the sources; a broken link fails.
//   npx vitepress preview build/site-pages    shows it afterwards
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { root, runTool } from '../process.mjs';
import { writeApiPages } from './api-pages.mjs';
import { checkSite } from './check-site.mjs';
import { API_PACKAGES, FILES, HOME, SECTIONS } from './site-pages.mjs';
import { stagePage, titleOf } from './stage-page.mjs';

const staged = join(root, 'build/site-pages');
const site = join(root, 'build/site');

for (const folder of [staged, site]) rmSync(folder, { recursive: true, force: true });
const pages = [[HOME, 'index'], ...SECTIONS.flatMap((section) => section.pages)];
const places = new Map([
  ...pages.map(([source, path]) => [source, path === 'index' ? '' : path]),
  ...Object.entries(FILES).map(([name, source]) => [source, name]),
  ['README.md', ''],
]);
const titles = new Map();
for (const [source, path] of pages) {
  const text = readFileSync(join(root, source), 'utf8');
  titles.set(path, titleOf(text));
  write(`${path}.md`, stagePage(source, text, places));
}
for (const [name, source] of Object.entries(FILES)) {
  mkdirSync(dirname(join(staged, 'public', name)), { recursive: true });
  cpSync(join(root, source), join(staged, 'public', name));
}
await writeApiPages(join(staged, 'api'));
write('.vitepress/config.mjs', readFileSync(join(root, 'tools/site/site-config.mjs'), 'utf8'));
write('.vitepress/sidebar.json', JSON.stringify(navigation()));

const { status, output } = await runTool('vitepress/bin/vitepress.js', ['build', staged]);
const problems = status === 0 ? checkSite(site) : [output];
for (const problem of problems) console.log(problem);
process.exitCode = problems.length > 0 ? 1 : 0;

function write(path, text) {
  mkdirSync(dirname(join(staged, path)), { recursive: true });
  writeFileSync(join(staged, path), text);
}

function navigation() {
  const sections = SECTIONS.map(({ text, pages: inside }) => ({
    text,
    items: inside.map(([, path]) => ({ text: titles.get(path), link: `/${path}` })),
  }));
  const api = {
    text: 'API',
    items: API_PACKAGES.map((name) => ({ text: `@int-flash/${name}`, link: `/api/@int-flash/${name}` })),
  };
  const nav = [
    { text: 'Start', link: '/start/application' },
    { text: 'API', link: '/api/@int-flash/attention' },
    { text: 'Accuracy', link: '/accuracy' },
    { text: 'Speed', link: '/speed' },
    { text: 'Security', link: '/security' },
  ];
  return { sidebar: [sections[0], sections[1], api, ...sections.slice(2)], nav };
}
