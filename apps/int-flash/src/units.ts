/** Numbers as a person reads them: three or four digits and a unit. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return unit === 0 ? `${value} B` : `${formatNumber(value)} ${units[unit]}`;
}

/** `14,162,304` → `14.2 M`. */
export function formatCount(count: number): string {
  if (count >= 1e9) return `${formatNumber(count / 1e9)} B`;
  if (count >= 1e6) return `${formatNumber(count / 1e6)} M`;
  return count.toLocaleString('en-US');
}

export function formatSeconds(ms: number): string {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${formatNumber(ms / 1000)} s`;
}

export function formatRate(tokensPerSecond: number): string {
  return `${formatNumber(tokensPerSecond)} tokens/s`;
}

/** Percent with two significant digits below 10 %. */
export function formatPercent(ratio: number): string {
  const percent = ratio * 100;
  return `${percent >= 10 ? percent.toFixed(0) : percent.toPrecision(2)}%`;
}

function formatNumber(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en-US') : value.toFixed(1);
}
