// Fails on an import that goes up or sideways through the layers or behind a package's front door, on logic in a front
// door, and on a file named after nothing. Warns about long files.
import { readFileSync } from 'node:fs';
import { basename, join, relative, resolve, sep } from 'node:path';
import { root } from '../process.mjs';
import { filesBelow, workspacePackages } from '../stamp.mjs';
import { layerProblem } from './layers.mjs';

const LONG = 400;
const NAMELESS = /^(utils?|helpers?|commons?|misc|shared)([.-]|$)/i;
const IMPORT = /(?:\bfrom|\bimport|\brequire\(|\bimport\()\s*['"]([^'"]+)['"]/g;

const problems = [];
const warnings = [];

for (const directory of workspacePackages()) {
  const home = join(root, directory);
  const layer = directory.startsWith('apps') ? 'apps' : basename(directory);
  checkManifest(home, layer);
  for (const path of ['src', 'test', 'bench', 'native', 'kernels'].flatMap((folder) =>
    filesBelow(join(home, folder)),
  )) {
    checkName(path);
    const text = readFileSync(path, 'utf8');
    if (/\.(ts|mts|cts|tsx|mjs|js|cc|cu|cuh|h|hpp|cpp)$/.test(path)) checkLength(path, text);
    if (/\.(ts|mts|cts|tsx)$/.test(path)) checkImports(path, text, home, layer);
    if (layer !== 'apps' && relative(home, path) === join('src', 'index.ts')) checkFrontDoor(path, text);
  }
}
for (const path of filesBelow(join(root, 'tools'))) checkName(path);

for (const warning of warnings) console.log(`warning: ${warning}`);
for (const problem of problems) console.log(problem);
process.exitCode = problems.length > 0 ? 1 : 0;

function checkImports(path, text, home, layer) {
  const inTest = !relative(home, path).startsWith(`src${sep}`);
  for (const match of text.matchAll(IMPORT)) {
    const specifier = match[1];
    const where = `${relative(root, path)}:${lineOf(text, match.index)}`;
    const [, name, behind] = /^@int-flash\/([^/]+)(\/.*)?$/.exec(specifier) ?? [];
    if (name) {
      if (behind && behind !== '/package.json') {
        problems.push(
          `${where} imports ${specifier}: what lies behind a front door may move; import @int-flash/${name}`,
        );
      }
      const why = layerProblem(layer, name, inTest);
      if (why) problems.push(`${where} imports ${specifier}: ${why}`);
    } else if (specifier.startsWith('.')) {
      const target = resolve(path, '..', specifier);
      const isTool = inTest && target.startsWith(join(root, 'tools') + sep); // below all layers, and in no package that is published
      if (!target.startsWith(home + sep) && !isTool) {
        problems.push(`${where} imports ${specifier}, outside its package: import the package by its name`);
      }
    }
  }
}

/** A dependency that no layer allows would be an import waiting to happen. */
function checkManifest(home, layer) {
  const manifest = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'));
  for (const [field, inTest] of [
    ['dependencies', false],
    ['peerDependencies', false],
    ['devDependencies', true],
  ]) {
    for (const dependency of Object.keys(manifest[field] ?? {})) {
      if (!dependency.startsWith('@int-flash/')) continue;
      const why = layerProblem(layer, dependency.slice('@int-flash/'.length), inTest);
      if (why) problems.push(`${relative(root, home)}/package.json depends on ${dependency}: ${why}`);
    }
  }
}

/** src/index.ts re-exports by name: what a package offers can be read off one file. */
function checkFrontDoor(path, text) {
  const code = text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/\/\/.*$/gm, '');
  const rest = code.replace(/export\s+(type\s+)?\{[^}]*\}(\s*from\s*['"][^'"]+['"])?\s*;/g, '').trim();
  if (rest) {
    const first = rest.split('\n')[0];
    problems.push(
      `${relative(root, path)} holds \`${first}\`: a front door only re-exports, and by name (\`export { x } from './x'\`)`,
    );
  }
}

function checkName(path) {
  if (NAMELESS.test(basename(path))) {
    problems.push(`${relative(root, path)}: name the file after what it exports; anything fits in a ${basename(path)}`);
  }
}

function checkLength(path, text) {
  const lines = text.split('\n').length;
  if (lines > LONG && !/one story/i.test(text.slice(0, 1500))) {
    warnings.push(
      `${relative(root, path)} has ${lines} lines; past ${LONG}, split it or say at its top why it is one story`,
    );
  }
}

function lineOf(text, index) {
  return text.slice(0, index).split('\n').length;
}
