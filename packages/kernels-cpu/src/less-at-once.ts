/** What to do where host memory does not hold an answer, or what is computed on the way to it. */
export const LESS_AT_ONCE = 'Ask for fewer sequences, heads, queries or keys at a time.';
