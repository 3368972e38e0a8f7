// Every INTFLASH_FORWARD of the portable forward, interleaved on one device: node packages/kernels-cuda/bench/forward-choices.mjs [choices] [rounds]
import { openCudaDevice } from '../dist/index.js';
import { normalBfloat16 } from './normal-inputs.mjs';

const choices = (process.argv[2] ?? 'pair,w12,w12f,w8,w16').split(',');
const rounds = Number(process.argv[3] ?? 4);
const shapes = [
  [4, 32, 32, 4096, 128, false],
  [4, 32, 32, 4096, 128, true],
  [4, 32, 32, 4096, 64, false],
  [2, 16, 16, 4096, 256, false],
  [2, 16, 16, 16384, 128, false],
  [4, 32, 32, 512, 128, false],
];
const device = openCudaDevice();
process.stdout.write(`${device.name}\n`);
for (const [B, H, Hkv, N, D, causal] of shapes) {
  const upload = (heads, seed) =>
    device.upload({ type: 'bfloat16', dims: [B, heads, N, D], data: normalBfloat16(B * heads * N * D, seed) });
  const inputs = { query: await upload(H, 1), key: await upload(Hkv, 2), value: await upload(Hkv, 3) };
  const rows = Math.min(256, N);
  const part = {
    query: inputs.query.view([1, 1, rows, D], { elementOffset: (N - rows) * D }),
    key: inputs.key.view([1, 1, N, D]),
    value: inputs.value.view([1, 1, N, D]),
  };
  const visible = { isCausal: causal, causalAlignment: 'bottom-right' };
  const exact = await device.exactAttention(part, visible);
  for (const precision of ['full-int8', 'half-int8']) {
    const times = new Map(choices.map((choice) => [choice, []]));
    const errors = new Map();
    for (const choice of choices) {
      process.env.INTFLASH_FORWARD = choice;
      const got = await device.attention(part, { ...visible, precision, kernel: 'portable' });
      const { relativeL2, odd } = await device.compare(got.out, exact.out);
      errors.set(choice, odd > 0 ? Number.NaN : relativeL2);
      got.out.dispose();
    }
    for (let round = 0; round < rounds; round++)
      for (const choice of choices) {
        process.env.INTFLASH_FORWARD = choice;
        const { out, forwardMs } = await device.attention(inputs, {
          isCausal: causal,
          precision,
          kernel: 'portable',
          repeats: 5,
        });
        out.dispose();
        times.get(choice).push(...forwardMs.slice(1));
      }
    const operations = (4 * B * H * N ** 2 * D) / (causal ? 2 : 1);
    const line = choices.map((choice) => {
      const sorted = times.get(choice).sort((a, b) => a - b);
      return `${choice} ${Math.round(operations / sorted[sorted.length >> 1] / 1e9)} (${errors.get(choice).toFixed(4)})`;
    });
    process.stdout.write(`B${B} H${H} N${N} D${D}${causal ? ' causal' : ''} ${precision}: ${line.join(', ')}\n`);
  }
  exact.out.dispose();
  for (const tensor of Object.values(inputs)) tensor.dispose();
}
device.dispose();
