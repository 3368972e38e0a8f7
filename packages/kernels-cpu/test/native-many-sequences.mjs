// 20,000 sequences of one token each, 8 heads of 64: prints how much was given, and by how much the process grew at most.
import { judgeAttention } from '@int-flash/ops';
import { createCpuBackend } from '../dist/index.js';

const sequences = 20_000;
const dims = [sequences, 8, 64];
const tensor = () => ({ type: 'float32', dims, data: new Float32Array(sequences * 8 * 64).fill(0.5) });
const inputs = { query: tensor(), key: tensor(), value: tensor() };
const cuSeqlens = Int32Array.from({ length: sequences + 1 }, (_, i) => i);
const plan = judgeAttention(inputs, { tensorLayout: 'NHD', cuSeqlensQ: cuSeqlens, cuSeqlensK: cuSeqlens });
const most = () => process.resourceUsage().maxRSS * 1024;
const before = most();
const { out } = createCpuBackend().attentionSync(plan);
if (out.some((value) => Math.abs(value - 0.5) > 1e-3)) throw new Error('Expected each token to attend to itself');
const bytesGiven = Object.values(inputs).reduce((sum, { data }) => sum + data.byteLength, 0);
process.stdout.write(`${JSON.stringify({ bytesGiven, mostBytes: most() - before })}\n`);
