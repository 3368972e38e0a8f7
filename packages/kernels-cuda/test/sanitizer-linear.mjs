// Linear layers for compute-sanitizer, of every kind and on both sides of what decides the kernel; results are not judged here.
//   compute-sanitizer --tool memcheck node packages/kernels-cuda/test/sanitizer-linear.mjs own|library
// `own`: this project's kernels alone. `library`: layers so large that cuBLASLt multiplies, where the machine has it.
import { createCudaBackend } from '../dist/index.js';

const which = process.argv[2];
if (which !== 'own' && which !== 'library') throw new Error(`Expected own or library, got ${which}`);
if (which === 'own') process.env.INTFLASH_CUBLASLT = '0'; // read when a product first asks for it
const backend = createCudaBackend();
const numbers = (count, seed) => Float32Array.from({ length: count }, (_, i) => Math.sin((i + 1) * seed) * 0.3);
const scales = (count) => numbers(count, 0.2).map((x) => 0.01 + Math.abs(x));
const codes = (count) => Int8Array.from(numbers(count, 0.7), (x) => Math.round(x * 300));

const int8 = (rows, cols) => ({ type: 'int8', rows, cols, codes: codes(rows * cols), scales: scales(rows) });
const int4 = (rows, cols, group) => ({
  type: 'int4',
  rows,
  cols,
  group,
  packed: Uint8Array.from(codes((rows * cols) / 2), (code) => code & 255),
  scales: scales((rows * cols) / group),
});
const floats = (rows, cols, digits) => {
  const weights = numbers(rows * cols, 0.7).map((x) => (digits === 16 ? Math.round(x * 64) / 64 : x));
  return { type: 'fp32', rows, cols, weights };
};

/** Tokens: as kernels for few of them are compiled, one more, and several tiles. */
const FEW = [1, 3, 8];
const CASES =
  which === 'library'
    ? [[int8(1024, 1024), [9, 70, 300]]]
    : [
        [int8(1100, 72), [...FEW, 9, 65, 960]], // 960: larger tiles
        [int8(1024, 1024), [...FEW, 9, 70]],
        [int4(150, 384, 128), [...FEW, 9, 70]],
        [int4(70, 320, 64), [...FEW, 70]],
        [int4(33, 96, 32), [...FEW, 70]],
        [int4(16_900, 128, 32), [70]],
        [floats(150, 100, 32), [...FEW, 9, 40]],
        [floats(150, 100, 16), [...FEW, 9, 40]],
      ];

let products = 0;
for (const [weights, counts] of CASES) {
  for (const bias of [undefined, numbers(weights.rows, 0.9)]) {
    const layer = backend.createLinear({ ...weights, bias });
    for (const tokens of counts) {
      layer.forwardSync(numbers(tokens * weights.cols, 1.1), tokens);
      products++;
    }
    layer.dispose();
  }
}
if (backend.liveBytes() !== 0) throw new Error(`Expected no live memory, got ${backend.liveBytes()} bytes`);
process.stdout.write(`${products} products\n`);
