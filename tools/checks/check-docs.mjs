// Fails when a document names a file that is not there, a command that does not exist, or a figure that was not measured.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { root } from '../process.mjs';
import { filesBelow, workspacePackages } from '../stamp.mjs';
import { figureProblems } from './figures.mjs';
import { unclaimedFigures } from './unclaimed-figures.mjs';

/** Written by tools, or told about the past: a changelog may name a file long gone. */
const NOT_CHECKED = /(^|\/)(CHANGELOG\.md|LICENSE\.md)$|^\.changeset\/(?!README)/;
/** A record of measurements itself, or a model's, which has its own. */
const RECORDS = /^(docs\/results|models)\//;
/** Made by a build or a run, so absent from a fresh clone. */
const GENERATED = /(^|\/)(node_modules|dist|build|coverage|\.gpu|\.turbo)(\/|$)/;
/** Bare names with these endings can only be files of this repository; a `config.json` may be a model's. */
const SOURCE_NAME = /^[\w.-]+\.(ts|mts|mjs|cc|cu|cuh|md)$/;

const files = repositoryFiles();
const names = new Set(files.map((path) => basename(path)));
const topLevel = new Set(files.filter((path) => path.includes('/')).map((path) => path.split('/')[0]));
const scripts = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).scripts;
const problems = [];

for (const path of files.filter((file) => file.endsWith('.md') && !NOT_CHECKED.test(file))) {
  const text = readFileSync(join(root, path), 'utf8');
  const { prose, fences } = separateFences(text);
  for (const { target, line } of mentionedPaths(prose)) {
    if (!exists(target, path)) problems.push(`${path}:${line} names ${target}, which does not exist`);
  }
  for (const fence of fences) checkCommands(path, fence);
  problems.push(...figureProblems(root, path, text));
  if (!RECORDS.test(path)) problems.push(...unclaimedFigures(path, text));
}

for (const path of unlistedModules()) console.log(`warning: docs/architecture.md has no line for ${path}`);
for (const problem of problems) console.log(problem);
process.exitCode = problems.length > 0 ? 1 : 0;

/** What git tracks, or, outside a checkout, every file. */
function repositoryFiles() {
  const listed = spawnSync('git', ['ls-files', '-z'], { cwd: root, encoding: 'utf8' });
  const found =
    listed.status === 0
      ? listed.stdout.split('\0').filter((path) => path && existsSync(join(root, path)))
      : filesBelow(root).map((path) => relative(root, path).replaceAll('\\', '/'));
  return found;
}

/** "A line a module" is only true while every module has one. */
function unlistedModules() {
  const architecture = readFileSync(join(root, 'docs', 'architecture.md'), 'utf8');
  return files.filter((path) => {
    const isModule = /^(packages|apps)\/[^/]+\/src\/.*\.ts$/.test(path) && !path.endsWith('/src/index.ts');
    const folder = path.slice(0, path.lastIndexOf('/') + 1);
    return isModule && !architecture.includes(path) && !architecture.includes(`\`${folder}\``);
  });
}

/** Blanks fenced blocks out of the prose, keeping line numbers, and returns them apart. */
function separateFences(text) {
  const fences = [];
  const prose = [];
  let open;
  for (const [index, line] of text.split('\n').entries()) {
    const [, mark, language] = /^\s*(`{3,}|~{3,})\s*(\w*)/.exec(line) ?? [];
    if (!open && mark) {
      open = { mark, language, line: index + 1, lines: [] };
      fences.push(open);
    } else if (open && mark?.startsWith(open.mark) && !language) open = undefined;
    else if (open) open.lines.push(line);
    prose.push(open || mark ? '' : line);
  }
  return { prose, fences };
}

/** Links and inline code that look like a path in this repository. */
function mentionedPaths(prose) {
  const found = [];
  for (const [index, line] of prose.entries()) {
    const links = [...line.matchAll(/\]\(<?([^)\s>]+)>?[^)]*\)|^\s*\[[^\]]+\]:\s*(\S+)|(?:src|href)="([^"]+)"/g)];
    for (const match of links) {
      const target = (match[1] ?? match[2] ?? match[3]).split(/[?#]/)[0];
      if (target && !/^[a-z][a-z+.-]*:|^\/\//i.test(target)) found.push({ target, line: index + 1, link: true });
    }
    for (const match of line.matchAll(/`([^`]+)`/g)) {
      const target = match[1].replace(/^\.\//, '').replace(/:\d+(-\d+)?$/, '');
      const isPath =
        /^[\w.*{},-]+(\/[\w.*{},-]+)+\/?$/.test(target) &&
        (topLevel.has(target.split('/')[0]) || /^(src|test|native|kernels|bench)\//.test(target));
      if (isPath || SOURCE_NAME.test(target)) found.push({ target, line: index + 1 });
    }
  }
  return found;
}

/** True for a path from the root, from the document, or from the package that the document belongs to. */
function exists(target, document) {
  if (GENERATED.test(target)) return true;
  const path = decodeURI(target).replace(/\/$/, '');
  const [, home = '.'] = /^((?:packages|apps)\/[^/]+)\//.exec(document) ?? [];
  // `src/index.ts` in a document of the whole repository speaks of any package.
  const homes = home === '.' ? workspacePackages() : [home];
  const bases = [root, dirname(join(root, document)), ...homes.map((path) => join(root, path))];
  if (/[*{]/.test(path)) return bases.some((base) => matchesSomething(base, path));
  if (SOURCE_NAME.test(path) && names.has(path)) return true;
  return bases.some((base) => existsSync(resolve(base, path)));
}

/** `packages/*\/test/x.{h,cc}`: a pattern is true when some file fits it. */
function matchesSomething(base, pattern) {
  const prefix = relative(root, base).replaceAll('\\', '/');
  const source = (prefix ? `${prefix}/${pattern}` : pattern)
    .replace(/[.+^$()|[\]\\]/g, '\\$&')
    .replace(/\*\*\/?|\*|\{[^}]*\}/g, (token) => {
      if (token.startsWith('**')) return '.*';
      if (token === '*') return '[^/]*';
      return `(${token.slice(1, -1).split(',').join('|')})`;
    });
  const fits = new RegExp(`^${source}(/|$)`);
  return files.some((path) => fits.test(path));
}

/** A command in a `sh` block must be one that package.json knows, on a script that exists. */
function checkCommands(path, { language, line, lines }) {
  if (!/^(sh|bash|shell|console)$/.test(language)) return;
  for (const [offset, text] of lines.entries()) {
    const where = `${path}:${line + offset + 1}`;
    const command = text.replace(/^\s*\$\s*/, '').replace(/#.*$/, '');
    for (const match of command.matchAll(/\b(?:npm|pnpm)\s+(?:run\s+)?(?:-\S+\s+)*([\w:-]+)/g)) {
      const [whole, name] = match;
      const isScript =
        /\srun\s/.test(whole) || ['test', 'start'].includes(name) || (/^pnpm/.test(whole) && /:/.test(name));
      if (isScript && !Object.hasOwn(scripts, name))
        problems.push(`${where} runs \`${whole}\`, but package.json has no script ${name}`);
    }
    for (const [, script] of command.matchAll(/\bnode\s+([\w./-]+\.[mc]?js)\b/g)) {
      if (!exists(script, path)) problems.push(`${where} runs ${script}, which does not exist`);
    }
  }
}
