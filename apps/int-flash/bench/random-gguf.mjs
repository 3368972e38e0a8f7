// A GGUF file of random weights for another runtime's benchmark: a Llama of some shape, every matrix in Q8_0, norms of ones, a vocabulary that says nothing.
import { closeSync, openSync, writeSync } from 'node:fs';
import { ggufHeader, padding } from '../../../tools/gguf-header.mjs';

const F32 = 0;
const Q8_0 = { type: 8, numbers: 32, bytes: 34 };

/**
 * @typedef {{ vocab: number, hidden: number, layers: number, heads: number, kvHeads: number, headDim: number, intermediate: number }} Shape
 * @param {string} path
 * @param {Shape} shape
 */
export function writeRandomGguf(path, shape) {
  const tensors = tensorsOf(shape);
  const file = openSync(path, 'w');
  try {
    writeSync(file, ggufHeader(metadataOf(shape), tensors));
    const codes = randomBlocks(4096);
    for (const { type, bytes } of tensors) writeAligned(file, type === F32 ? [ones(bytes)] : repeated(codes, bytes));
  } finally {
    closeSync(file);
  }
}

function metadataOf({ vocab, hidden, layers, heads, kvHeads, headDim, intermediate }) {
  const llama = {
    block_count: layers,
    context_length: 4096,
    embedding_length: hidden,
    feed_forward_length: intermediate,
  };
  const attention = { head_count: heads, head_count_kv: kvHeads, key_length: headDim, value_length: headDim };
  return [
    ['general.architecture', 'string', 'llama'],
    ...Object.entries(llama).map(([key, value]) => [`llama.${key}`, 'uint32', value]),
    ...Object.entries(attention).map(([key, value]) => [`llama.attention.${key}`, 'uint32', value]),
    ['llama.attention.layer_norm_rms_epsilon', 'float32', 1e-5],
    ['llama.rope.dimension_count', 'uint32', headDim],
    ['tokenizer.ggml.model', 'string', 'gpt2'],
    ['tokenizer.ggml.pre', 'string', 'default'],
    ['tokenizer.ggml.tokens', 'string', Array.from({ length: vocab }, (_, id) => (id < 256 ? byteName(id) : `t${id}`))],
    ['tokenizer.ggml.token_type', 'int32', new Array(vocab).fill(1)],
    ['tokenizer.ggml.merges', 'string', ['t t']],
    ['tokenizer.ggml.bos_token_id', 'uint32', 0],
    ['tokenizer.ggml.eos_token_id', 'uint32', 1],
  ];
}

/** A name for each byte: printable ones are themselves, as in byte-level BPE. */
function byteName(byte) {
  const isPrintable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  return String.fromCharCode(isPrintable ? byte : 256 + byte);
}

function tensorsOf({ vocab, hidden, layers, heads, kvHeads, headDim, intermediate }) {
  const matrix = (name, rows, cols) => ({
    name: `${name}.weight`,
    shape: [rows, cols],
    type: Q8_0.type,
    bytes: ((rows * cols) / Q8_0.numbers) * Q8_0.bytes,
  });
  const gain = (name) => ({ name: `${name}.weight`, shape: [hidden], type: F32, bytes: 4 * hidden });
  return [
    matrix('token_embd', vocab, hidden), // the output layer's too
    gain('output_norm'),
    ...Array.from({ length: layers }, (_, layer) => `blk.${layer}`).flatMap((layer) => [
      gain(`${layer}.attn_norm`),
      matrix(`${layer}.attn_q`, heads * headDim, hidden),
      matrix(`${layer}.attn_k`, kvHeads * headDim, hidden),
      matrix(`${layer}.attn_v`, kvHeads * headDim, hidden),
      matrix(`${layer}.attn_output`, hidden, heads * headDim),
      gain(`${layer}.ffn_norm`),
      matrix(`${layer}.ffn_gate`, intermediate, hidden),
      matrix(`${layer}.ffn_up`, intermediate, hidden),
      matrix(`${layer}.ffn_down`, hidden, intermediate),
    ]),
  ];
}

/** Blocks of Q8_0: a float16 scale of some 2^-11, then 32 codes. */
function randomBlocks(count) {
  const blocks = Buffer.alloc(count * Q8_0.bytes);
  let state = 1;
  for (let i = 0; i < blocks.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    blocks[i] = state >>> 24;
  }
  for (let block = 0; block < count; block++) blocks.writeUInt16LE(0x1000 + (block % 64), block * Q8_0.bytes);
  return blocks;
}

function* repeated(buffer, bytes) {
  for (let left = bytes; left > 0; left -= buffer.length) yield buffer.subarray(0, left);
}

function ones(bytes) {
  return Buffer.from(new Float32Array(bytes / 4).fill(1).buffer);
}

function writeAligned(file, buffers) {
  let written = 0;
  for (const buffer of buffers) written += writeSync(file, buffer);
  writeSync(file, Buffer.alloc(padding(written)));
}
