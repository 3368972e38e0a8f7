import type {
  AttentionGeometry,
  AttentionPlan,
  FloatOperand,
  HalfQuantizedAttentionPlan,
  QuantizedAttentionPlan,
  RowStrides,
  SequenceSpan,
  TensorLayout,
} from './attention-plan.js';
import { PRECISIONS } from './attention-plan.js';
import { describe } from './describe.js';
import type { FloatType } from './float-formats.js';
import { IntFlashError } from './int-flash-error.js';
import { checkBoolean, checkChoice, checkNumber, checkOptions, readArguments } from './option-check.js';
import { judgeSequenceOffsets } from './sequence-offsets.js';
import { contiguousStrides, type DataType, judgeTensor, type Tensor, type TensorJudge } from './tensor.js';
import { judgeValueScales } from './value-scales.js';
import { judgeMask, judgeWindow } from './visibility-args.js';

const FLOAT_TYPES: readonly DataType[] = ['float32', 'float16', 'bfloat16'];
const MAX_HEAD_DIM = 256; // what every backend's tiles are sized for
const HEAD_DIM_STEP = 8;
const MAX_ELEMENTS = 2 ** 33; // of one operand: 32 GiB in float32
const MAX_BATCH = 2 ** 20;

/** Options that say what is computed; the front door adds those that say where (`backend`, `signal`). */
export const ATTENTION_OPTION_KEYS = [
  'isCausal',
  'causalAlignment',
  'scale',
  'attnMask',
  'tensorLayout',
  'enableGqa',
  'windowSize',
  'softcap',
  'returnLse',
  'precision',
  'smoothK',
  'cuSeqlensQ',
  'cuSeqlensK',
  'maxSeqlenQ',
  'maxSeqlenK',
] as const;

/** Codes are taken as they are. */
const CODES_OPTION_KEYS = ATTENTION_OPTION_KEYS.filter((key) => key !== 'smoothK');

/**
 * The one judge of attention arguments.
 *
 * @param inputs  `{query, key, value}`: float tensors of rank 4 (see {@link TensorLayout}), or rank 3 for one sequence, or for
 *   varlen (`cuSeqlensQ`/`cuSeqlensK`, layout NHD: [total, heads, headDim]).
 * @param options Named as in PyTorch and flash-attn, in camelCase.
 * @param judge   Judges each tensor: {@link judgeTensor}, or a backend's own for tensors that live elsewhere.
 * @throws {IntFlashError} `ERR_ARG_TYPE`, `ERR_ARG_RANGE`, `ERR_SHAPE`, `ERR_OVERFLOW`, `ERR_UNSUPPORTED`, `ERR_BUFFER_*`.
 */
export function judgeAttention(inputs: unknown, options?: unknown, judge: TensorJudge = judgeTensor): AttentionPlan {
  return readArguments(() => readAttention(inputs, options, judge));
}

function readAttention(inputs: unknown, options: unknown, judge: TensorJudge): AttentionPlan {
  const given = checkOptions(options, ATTENTION_OPTION_KEYS, 'options');
  const { query, key, value } = checkInputs(inputs, ['query', 'key', 'value']);
  const operands = {
    query: judge(query, 'query', FLOAT_TYPES),
    key: judge(key, 'key', FLOAT_TYPES),
    value: judge(value, 'value', FLOAT_TYPES),
  };
  const { geometry, strides } = judgeGeometry(operands, given, judge);
  // Not a spread: of so many fields it takes as long as a short attention.
  return Object.assign(geometry, {
    precision: checkChoice(given.precision, 'precision', PRECISIONS, 'full-int8'),
    smoothK: checkBoolean(given.smoothK, 'smoothK', true),
    query: floatOperand(operands.query, strides.query),
    key: floatOperand(operands.key, strides.key),
    value: floatOperand(operands.value, strides.value),
  });
}

/**
 * Judges the pre-quantized entry: INT8 codes with their scales, as `quant` makes them.
 *
 * @param inputs `q`, `k`, `v`: int8 tensors laid out like `query`, `key`, `value`. `qScale` `[batch, heads, queries]` and `kScale`
 *   `[batch, kvHeads, keys]`: one scale a token. `vScale`: [batch, kvHeads] (the paper's) or [batch, kvHeads, keys] (token-level),
 *   times `vChannelScale` [batch, kvHeads, headDim] if given. Rank-3 inputs and varlen drop the batch axis. Scales are
 *   contiguous float32, finite and positive.
 * @param options As for {@link judgeAttention}, without `smoothK`: codes are taken as they are.
 * @throws {IntFlashError} As {@link judgeAttention}.
 */
export function judgeQuantizedAttention(
  inputs: unknown,
  options?: unknown,
  judge: TensorJudge = judgeTensor,
): QuantizedAttentionPlan {
  return readArguments(() => readQuantizedAttention(inputs, options, judge));
}

/**
 * Judges `half-int8` on codes.
 *
 * @param inputs  `q`, `k`, `qScale`, `kScale` as for {@link judgeQuantizedAttention}; `v`: a float tensor laid out like `value`, which has no scales.
 * @param options As for {@link judgeAttention}, without `smoothK`: codes are taken as they are.
 * @throws {IntFlashError} As {@link judgeAttention}.
 */
export function judgeHalfQuantizedAttention(
  inputs: unknown,
  options?: unknown,
  judge: TensorJudge = judgeTensor,
): HalfQuantizedAttentionPlan {
  return readArguments(() => readHalfQuantizedAttention(inputs, options, judge));
}

function readHalfQuantizedAttention(inputs: unknown, options: unknown, judge: TensorJudge): HalfQuantizedAttentionPlan {
  const given = checkOptions(options, CODES_OPTION_KEYS, 'options');
  const fields = checkInputs(inputs, ['q', 'k', 'v', 'qScale', 'kScale']);
  const operands = {
    query: judge(fields.q, 'q', ['int8']),
    key: judge(fields.k, 'k', ['int8']),
    value: judge(fields.v, 'v', FLOAT_TYPES),
  };
  const judged = judgeGeometry(operands, given, judge);
  return Object.assign(judged.geometry, {
    precision: checkChoice(given.precision, 'precision', ['half-int8'] as const, 'half-int8'),
    value: floatOperand(operands.value, judged.strides.value),
    ...codedScores(operands, fields, judged, judge),
  });
}

function readQuantizedAttention(inputs: unknown, options: unknown, judge: TensorJudge): QuantizedAttentionPlan {
  const given = checkOptions(options, CODES_OPTION_KEYS, 'options');
  const fields = checkInputs(inputs, ['q', 'k', 'v', 'qScale', 'kScale', 'vScale', 'vChannelScale']);
  const operands = {
    query: judge(fields.q, 'q', ['int8']),
    key: judge(fields.k, 'k', ['int8']),
    value: judge(fields.v, 'v', ['int8']),
  };
  const judged = judgeGeometry(operands, given, judge);
  const { geometry, strides, batched, keys } = judged;
  const precision = checkChoice(given.precision, 'precision', ['full-int8', 'paper-int8'] as const, 'full-int8');
  const perHead = [...(batched ? [operands.query.dims[0]!] : []), geometry.kvHeads];
  const perKey = [...perHead, keys];
  const vScale = judge(fields.vScale, 'vScale', ['float32']);
  const tokenLevel = vScale.dims.length === perKey.length;
  if (tokenLevel && precision === 'paper-int8') {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected vScale [${perHead.join(', ')}] (per tensor) for paper-int8, got [${vScale.dims.join(', ')}]`,
    );
  }
  const channel = fields.vChannelScale;
  const codes = { data: operands.value.data as Int8Array, strides: strides.value };
  const scores = codedScores(operands, fields, judged, judge);
  const scale = scaleOperand(vScale, 'vScale', tokenLevel ? perKey : perHead, batched, tokenLevel ? 1 : 0);
  const channelScale =
    channel === undefined
      ? undefined
      : scaleOperand(
          judge(channel, 'vChannelScale', ['float32']),
          'vChannelScale',
          [...perHead, geometry.headDimV],
          batched,
          0,
        );
  const rows = { heads: geometry.kvHeads, keys, width: geometry.headDimV };
  return Object.assign(geometry, {
    precision,
    value: codes,
    ...scores,
    valueScale: { ...scale, data: judgeValueScales(scale.data, channelScale?.data, tokenLevel, codes, rows) },
    valueChannelScale: channelScale,
  });
}

/** Q and K as codes, and their scales. */
function codedScores(
  { query, key }: Operands,
  fields: { readonly qScale?: unknown; readonly kScale?: unknown },
  { geometry, strides, batched, queries, keys }: ReturnType<typeof judgeGeometry>,
  judge: TensorJudge,
) {
  const scaleOf = (name: 'qScale' | 'kScale', heads: number, tokens: number) =>
    scaleOperand(
      judge(fields[name], name, ['float32']),
      name,
      [...(batched ? [query.dims[0]!] : []), heads, tokens],
      batched,
      1,
    );
  return {
    query: { data: query.data as Int8Array, strides: strides.query },
    key: { data: key.data as Int8Array, strides: strides.key },
    queryScale: scaleOf('qScale', geometry.heads, queries),
    keyScale: scaleOf('kScale', geometry.kvHeads, keys),
  };
}

function checkInputs<K extends string>(inputs: unknown, keys: readonly K[]): Partial<Record<K, unknown>> {
  if (typeof inputs !== 'object' || inputs === null || Array.isArray(inputs) || ArrayBuffer.isView(inputs)) {
    throw new IntFlashError(
      'ERR_ARG_TYPE',
      `Expected the inputs to be an object with ${keys.join(', ')}, got ${describe(inputs)}`,
    );
  }
  return checkOptions(inputs, keys, 'inputs') as Partial<Record<K, unknown>>;
}

/** Scales are small, so they are read here once: a NaN or negative scale would poison a whole row silently. */
function scaleOperand(scale: Tensor, name: string, dims: readonly number[], batched: boolean, tokenStride: number) {
  const contiguous = contiguousStrides(scale.dims);
  if (
    scale.dims.join() !== dims.join() ||
    scale.strides.some((stride, axis) => scale.dims[axis]! > 1 && stride !== contiguous[axis])
  ) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected ${name} to be contiguous with dims [${dims.join(', ')}], got [${scale.dims.join(', ')}]`,
    );
  }
  const data = scale.data as Float32Array;
  for (let i = 0; i < data.length; i++) {
    if (!(data[i]! > 0 && data[i]! < Infinity))
      throw new IntFlashError(
        'ERR_ARG_RANGE',
        `Expected ${name} to hold finite scales > 0, got ${data[i]} at element ${i}`,
      );
  }
  const headAxis = batched ? 1 : 0;
  return { data, strides: { batch: batched ? contiguous[0]! : 0, head: contiguous[headAxis]!, token: tokenStride } };
}

interface Operands {
  readonly query: Tensor;
  readonly key: Tensor;
  readonly value: Tensor;
}

function judgeGeometry(operands: Operands, given: Record<string, unknown>, judge: TensorJudge) {
  const layout: TensorLayout = checkChoice(given.tensorLayout, 'tensorLayout', ['HND', 'NHD'] as const, 'HND');
  const varlen = given.cuSeqlensQ !== undefined || given.cuSeqlensK !== undefined;
  const rank = operands.query.dims.length;
  if (varlen ? rank !== 3 : rank !== 3 && rank !== 4) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected query of rank ${varlen ? '3 with cuSeqlens' : '4 (or 3 without a batch)'}, got dims [${operands.query.dims.join(', ')}]`,
    );
  }
  if (varlen && layout !== 'NHD')
    throw new IntFlashError('ERR_UNSUPPORTED', `Expected tensorLayout NHD with cuSeqlens, got ${layout}`);
  const batched = rank === 4;
  const shapes = {
    query: readShape(operands.query, 'query', rank, layout),
    key: readShape(operands.key, 'key', rank, layout),
    value: readShape(operands.value, 'value', rank, layout),
  };
  const { query, key, value } = shapes;
  expectEqual('key', 'batch', key.batch, query.batch);
  expectEqual('value', 'batch', value.batch, query.batch);
  expectEqual('value', 'number of heads', value.heads, key.heads);
  expectEqual('value', 'number of tokens', value.tokens, key.tokens);
  expectEqual('key', 'headDim', key.dim, query.dim);
  judgeHeads(query.heads, key.heads, checkBoolean(given.enableGqa, 'enableGqa', true));
  judgeHeadDim('query', query.dim);
  judgeHeadDim('value', value.dim);

  const outDims = operands.query.dims.slice();
  outDims[rank - 1] = value.dim;
  judgeExtent('query', operands.query.dims);
  judgeExtent('key', operands.key.dims);
  judgeExtent('value', operands.value.dims);
  judgeExtent('out', outDims);
  if (query.batch > MAX_BATCH)
    throw new IntFlashError('ERR_OVERFLOW', `Expected a batch of at most 2^20, got ${query.batch}`);
  if (!varlen) judgeNoMaxSeqlen(given);

  const sequences: readonly SequenceSpan[] = varlen
    ? judgeSequenceOffsets(given, query.tokens, key.tokens)
    : Array.from({ length: query.batch }, () => ({ qStart: 0, qLen: query.tokens, kStart: 0, kLen: key.tokens }));
  const mask = judgeMask(given, [query.batch, query.heads, query.tokens, key.tokens], varlen, judge);
  const outStrides = rowStrides(contiguousStrides(outDims), rank, layout);
  const geometry: AttentionGeometry = {
    heads: query.heads,
    kvHeads: key.heads,
    headDim: query.dim,
    headDimV: value.dim,
    sequences,
    scale: judgeScale(given.scale, query.dim),
    softcap: Math.fround(checkNumber(given.softcap, 'softcap', 0, 0, 3e38)), // float32, as the kernels take it
    ...judgeWindow(given),
    mask,
    returnLse: checkBoolean(given.returnLse, 'returnLse', false),
    outDims,
    outStrides,
    lseDims: batched ? [query.batch, query.heads, query.tokens] : [query.heads, query.tokens],
    lseStrides: { batch: batched ? query.heads * query.tokens : 0, head: query.tokens, token: 1 },
  };
  const strides = {
    query: rowStrides(operands.query.strides, rank, layout),
    key: rowStrides(operands.key.strides, rank, layout),
    value: rowStrides(operands.value.strides, rank, layout),
  };
  return { geometry, strides, batched, queries: query.tokens, keys: key.tokens };
}

/**
 * Zero strides let a small buffer stand for any number of rows, so the buffer's length bounds nothing: without these limits a few
 * bytes could ask for terabytes of output or a billion sequences.
 */
function judgeExtent(name: string, dims: readonly number[]): void {
  let elements = 1;
  for (const dim of dims) elements *= dim;
  if (elements > MAX_ELEMENTS) {
    throw new IntFlashError('ERR_OVERFLOW', `Expected ${name} of at most 2^33 elements, got dims [${dims.join(', ')}]`);
  }
}

function judgeNoMaxSeqlen(given: Record<string, unknown>): void {
  for (const name of ['maxSeqlenQ', 'maxSeqlenK']) {
    if (given[name] !== undefined)
      throw new IntFlashError(
        'ERR_ARG_RANGE',
        `Expected ${name} only together with cuSeqlensQ and cuSeqlensK, got it alone`,
      );
  }
}

function readShape(operand: Tensor, name: string, rank: number, layout: TensorLayout) {
  const { dims, strides } = operand;
  if (dims.length !== rank)
    throw new IntFlashError('ERR_SHAPE', `Expected ${name} of rank ${rank} like query, got dims [${dims.join(', ')}]`);
  const dim = dims[rank - 1]!;
  if (dim > 1 && strides[rank - 1] !== 1) {
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected the head dimension of ${name} to be contiguous (stride 1), got stride ${strides[rank - 1]}`,
      {
        hint: 'Copy the tensor so that its last axis is contiguous; the other axes may have any stride.',
      },
    );
  }
  const [tokens, heads] = layout === 'HND' ? [dims[rank - 2]!, dims[rank - 3]!] : [dims[rank - 3]!, dims[rank - 2]!];
  return { batch: rank === 4 ? dims[0]! : 1, heads, tokens, dim };
}

function rowStrides(strides: readonly number[], rank: number, layout: TensorLayout): RowStrides {
  const [inner, outer] = [strides[rank - 2]!, strides[rank - 3]!];
  const batch = rank === 4 ? strides[0]! : 0;
  return layout === 'HND' ? { batch, head: outer, token: inner } : { batch, head: inner, token: outer };
}

function floatOperand(operand: Tensor, strides: RowStrides): FloatOperand {
  return { type: operand.type as FloatType, data: operand.data as Float32Array | Uint16Array, strides };
}

function expectEqual(name: string, what: string, actual: number, expected: number): void {
  if (actual !== expected)
    throw new IntFlashError('ERR_SHAPE', `Expected ${name} to have ${what} ${expected}, got ${actual}`);
}

function judgeHeads(heads: number, kvHeads: number, enableGqa: boolean): void {
  if (heads < 1 || kvHeads < 1 || heads % kvHeads !== 0) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected query heads to be a multiple of key/value heads, got ${heads} and ${kvHeads}`,
    );
  }
  if (!enableGqa && heads !== kvHeads) {
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected as many key/value heads as query heads (enableGqa is false), got ${heads} and ${kvHeads}`,
    );
  }
}

function judgeHeadDim(name: string, dim: number): void {
  if (dim < 1)
    throw new IntFlashError(
      'ERR_SHAPE',
      `Expected ${name} to have a head dimension of at least ${HEAD_DIM_STEP}, got ${dim}`,
    );
  if (dim > MAX_HEAD_DIM || dim % HEAD_DIM_STEP !== 0) {
    throw new IntFlashError(
      'ERR_UNSUPPORTED',
      `Expected ${name} to have a head dimension that is a multiple of ${HEAD_DIM_STEP} up to ${MAX_HEAD_DIM}, got ${dim}`,
      dim > MAX_HEAD_DIM ? {} : { hint: 'Pad the head dimension with zeros and pass the scale of the original one.' },
    );
  }
}

function judgeScale(value: unknown, headDim: number): number {
  const scale = checkNumber(value, 'scale', 1 / Math.sqrt(headDim), 2 ** -126, 2 ** 100);
  return Math.fround(scale); // kernels take float32; the oracle must see the same number
}
