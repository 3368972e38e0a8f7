/** The middle of `values`, the upper one of two. */
export function median(values) {
  return [...values].sort((a, b) => a - b)[values.length >> 1];
}
