/**
 * @param {string} range   `engines.node`: alternatives of `^major.minor` and `>=major.minor`
 * @param {string} version `process.versions.node`
 * @returns {string | undefined} what is wrong and what to do, or undefined when the version is fine
 */
export function nodeVersionProblem(range, version) {
  const [major, minor] = version.split('.').map(Number);
  const fits = range.split('||').some((alternative) => {
    const [, operator, wantMajor, wantMinor] = /^\s*(\^|>=)(\d+)\.(\d+)\s*$/.exec(alternative) ?? [];
    const sameMajor = major === Number(wantMajor) && minor >= Number(wantMinor);
    return operator === '^' ? sameMajor : sameMajor || major > Number(wantMajor);
  });
  if (fits) return undefined;
  return `Expected Node ${range}, got ${version}. Install a current one from https://nodejs.org, then run this again.`;
}
