interface Choice {
  readonly value: string;
  readonly title: string;
  /** What it shows, one line. */
  readonly says: string;
}

/** The families of the reference package. */
export const FAMILIES: readonly Choice[] = [
  { value: 'normal', title: 'Normal', says: 'N(0, 1) everywhere: the friendly case of every paper.' },
  { value: 'uniform', title: 'Uniform', says: 'U(0, 1): all positive, so every output is close to the mean of V.' },
  { value: 'centred', title: 'Uniform around 0', says: 'U(−0.5, 0.5): what the paper says that it draws.' },
  { value: 'sharp', title: 'Sharp', says: 'Queries three times larger: a few keys take the weight.' },
  {
    value: 'kbias',
    title: 'K with offsets',
    says: 'A tenth of K’s channels far from zero, as language models have them.',
  },
  { value: 'vout', title: 'V with outliers', says: 'A twentieth of V’s channels sixteen times larger.' },
  { value: 'sink', title: 'Attention sink', says: 'One key takes most of the weight and its value is small.' },
  { value: 'sinkall', title: 'Two sinks, outliers in V', says: 'Two such keys, and large channels in V besides.' },
];

/** In the order of the table: most in integers first, the yardstick last. */
export const VARIANTS: readonly Choice[] = [
  { value: 'full-int8', title: 'full INT8', says: 'Q·Kᵀ and P·V in INT8, a scale per token: the default' },
  { value: 'half-int8', title: 'half INT8', says: 'Q·Kᵀ in INT8, P·V in float' },
  { value: 'paper-int8', title: 'paper INT8', says: 'both in INT8, one scale for all of V: as published' },
  { value: 'int4-qk', title: 'INT4 Q and K', says: 'Q·Kᵀ in 4 bits, P·V in INT8' },
  { value: 'fp32', title: 'fp32', says: 'no quantization: the yardstick' },
];

export const TOKEN_COUNTS = [64, 128, 256, 512, 1024, 2048, 4096] as const;
export const HEAD_COUNTS = [1, 2, 4, 8] as const;
export const HEAD_DIMS = [32, 64, 128, 256] as const;

export function variantTitle(variant: string): string {
  return VARIANTS.find(({ value }) => value === variant)?.title ?? variant;
}
