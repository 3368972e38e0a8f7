/**
 * Finds a repetition that can make a backtracking regular expression take exponential time: a group repeated more than once which
 * itself holds a repetition or an alternative, as in `(a+)+` or `(a|aa)*`.
 *
 * It errs on the strict side: `(?:ab?)+` is refused too. The split patterns of the known tokenizers have no such group.
 * @returns The offending group, or `undefined`.
 */
export function findNestedRepetition(pattern: string): string | undefined {
  const open: { start: number; risky: boolean }[] = [];
  for (let i = 0; i < pattern.length; i++) {
    const char = pattern[i];
    if (char === '\\') i = endOfEscape(pattern, i);
    else if (char === '[') i = endOfClass(pattern, i);
    else if (char === '(') open.push({ start: i, risky: false });
    else if (char === '|') markRisky(open);
    else if (char === ')') {
      const group = open.pop();
      const repeated = repeatsAt(pattern, i + 1);
      if (group?.risky && repeated) return pattern.slice(group.start, i + 2);
      if (group?.risky || repeated) markRisky(open);
    } else if ((char === '*' || char === '+' || char === '{' || char === '?') && isRepetition(pattern, i)) {
      markRisky(open);
    }
  }
  return undefined;
}

function markRisky(open: { risky: boolean }[]): void {
  const group = open[open.length - 1];
  if (group) group.risky = true;
}

/** `(?` opens a special group and `+?` is a lazy `+`; neither repeats. `x?` does: what follows may take its place. */
function isRepetition(pattern: string, at: number): boolean {
  return pattern[at] !== '?' || (pattern[at - 1] !== '(' && pattern[at - 1] !== '+' && pattern[at - 1] !== '*');
}

/** True for `*`, `+` and `{n,m}` with more than one pass. */
function repeatsAt(pattern: string, at: number): boolean {
  if (pattern[at] === '*' || pattern[at] === '+') return true;
  const bounds = /^\{(\d*)(,?)(\d*)\}/.exec(pattern.slice(at, at + 24));
  if (!bounds) return false;
  const [, low, comma, high] = bounds;
  return comma === '' ? Number(low) > 1 : high === '' || Number(high) > 1;
}

/** The braces of `\p{L}` and `\x{41}` are no repetition. */
function endOfEscape(pattern: string, start: number): number {
  return start + (/^\\[pPxuk]\{[^}]*\}/.exec(pattern.slice(start, start + 64))?.[0].length ?? 2) - 1;
}

/** Character classes may hold classes (Oniguruma), brackets first in line and escapes. */
function endOfClass(pattern: string, start: number): number {
  let depth = 0;
  for (let i = start; i < pattern.length; i++) {
    if (pattern[i] === '\\') i++;
    else if (pattern[i] === '[') depth++;
    else if (pattern[i] === ']' && !isFirstInClass(pattern, i) && --depth === 0) return i;
  }
  return pattern.length;
}

function isFirstInClass(pattern: string, at: number): boolean {
  return pattern[at - 1] === '[' || (pattern[at - 1] === '^' && pattern[at - 2] === '[');
}
