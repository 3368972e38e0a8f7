// Options of benchmarks that take several values with commas. An option without its value is `true` where parseArgs is not strict.

/** @throws {Error} unless each is among `known` */
export function namesOf(option, text, known) {
  return valuesOf(option, text, known.join(', '), (name) => known.includes(name));
}

/** @throws {Error} unless each is a whole number of at least `least` */
export function countsOf(option, text, least = 1) {
  return valuesOf(option, text, `whole numbers from ${least} on`, (x) => /^\d{1,9}$/.test(x) && Number(x) >= least).map(
    Number,
  );
}

function valuesOf(option, text, expected, isGood) {
  const values = typeof text === 'string' ? text.split(',').filter(Boolean) : [];
  const odd = values.find((value) => !isGood(value));
  if (values.length === 0 || odd !== undefined)
    throw new Error(`Expected --${option} to be some of ${expected}, with commas; got ${odd ?? 'none'}`);
  return values;
}
