// What the forward is timed on: the shapes other people publish figures for.
const SHORT = [128, 256, 512, 1024, 2048];

/** @type {readonly { B: number, H: number, Hkv: number, N: number, D: number, causal: boolean }[]} */
export const FORWARD_SHAPES = [
  [2, 16, 16384, 128, false],
  [4, 32, 4096, 128, false],
  [2, 16, 16384, 128, true],
  [4, 32, 4096, 128, true],
  [4, 32, 16384, 64, false],
  [4, 32, 4096, 64, false],
  [4, 32, 4096, 64, true],
  [4, 32, 1024, 64, false],
  [4, 32, 1024, 128, false],
  [4, 32, 1024, 128, true],
  [2, 16, 4096, 256, false],
  [2, 16, 4096, 256, true],
  ...[64, 128].flatMap((D) => SHORT.filter((N) => N !== 1024).map((N) => [4, 32, N, D, false])),
]
  .map(([B, H, N, D, causal]) => ({ B, H, Hkv: H, N, D, causal }))
  .concat({ B: 4, H: 32, Hkv: 8, N: 4096, D: 128, causal: false });
