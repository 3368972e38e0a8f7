/** `0.0152`, `3.1e-7`: two or three digits that count. */
export function formatError(error: number): string {
  if (error === 0) return '0';
  return error < 1e-3 ? error.toExponential(1).replace(/\.0e/, 'e') : String(Number(error.toPrecision(3)));
}

/** `0.42`, `17.3`, `1,200`. */
export function formatMs(ms: number): string {
  if (ms < 10) return String(Number(ms.toPrecision(2)));
  return ms < 100 ? ms.toFixed(1).replace(/\.0$/, '') : Math.round(ms).toLocaleString('en');
}
