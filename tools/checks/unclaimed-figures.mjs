// No figure without a source: a number that looks measured must be held to a results file by a `measured` comment (figures.mjs), or a
// comment says why it is not one:
//   <!-- unmeasured: 8 30; limits of ours -->      these numbers, in this document
//   <!-- unmeasured table; bounds of tests -->     those of the table that follows
const UNIT =
  /(?<![\w./-])([+−-]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)\s?(?:ms|µs|s|tokens\/s|tokens a second|GOPS|TOPS|GB\/s|MB|%|times|× (?:fp32|float32|faster|the speed))(?![\w])/g;
const NUMBER = /^[+−-]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?$/;
const DECIMAL = /\.\d|e-/;
const TOLD = /<!--\s*(un)?measured:\s*([^>]*?)\s*-->/g;
const TABLE = /<!--\s*(?:unmeasured table;|measured:[^>]*;)[^>]*-->\s*\n(?:\s*\n)?((?:\|.*\n?)+)/g;

/** @returns {string[]} what is wrong in the text of `path`, a line each */
export function unclaimedFigures(path, text) {
  const told = new Set();
  for (const [, un, rule] of text.matchAll(TOLD)) {
    const [figures, reason] = un ? rule.split(/;(.*)/s) : [rule.split(':').at(-1)];
    if (un && !reason?.trim()) return [`${path} leaves figures unmeasured without saying why: ${rule}`];
    for (const figure of figures.split(/\s+/)) told.add(plain(figure));
  }
  const blank = (match) => match.replace(/[^\n]/g, ' ');
  const prose = text
    .replace(TABLE, blank)
    .replace(/<!--.*?-->/gs, blank)
    .replace(/^(```|~~~).*?^\1/gms, blank);
  const problems = [];
  for (const [index, line] of prose.split('\n').entries()) {
    for (const figure of figuresOf(line)) {
      if (!told.has(plain(figure))) {
        problems.push(
          `${path}:${index + 1} has the figure ${figure}, which no \`measured\` comment holds to docs/results (tools/checks/figures.mjs)`,
        );
      }
    }
  }
  return problems;
}

/** Numbers with the unit of a measurement; in a table also bare ones, if they have decimals or are not alone in their row. */
function figuresOf(line) {
  const found = [...line.matchAll(UNIT)].map(([, number]) => number);
  if (!line.startsWith('|')) return found;
  const cells = line.split('|').map((cell) => cell.trim().replaceAll('*', ''));
  const numbers = cells.flatMap((cell) => cell.split(/[\s()]+/)[0]).filter((cell) => NUMBER.test(cell));
  return [...found, ...numbers.filter((number) => DECIMAL.test(number) || (numbers.length > 1 && number.length > 1))];
}

function plain(figure) {
  return figure.replace(/^[+]/, '').replace('−', '-').replace(/%$/, '').replaceAll(',', '');
}
