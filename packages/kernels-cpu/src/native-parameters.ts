import type {
  AttentionGeometry,
  AttentionPlan,
  CacheAppendArgs,
  CacheAttentionArgs,
  FloatType,
  Precision,
  QuantizedAttentionPlan,
  RowStrides,
} from '@int-flash/ops';

const PRECISION_CODES: Record<Precision, number> = {
  'full-int8': 0,
  'half-int8': 1,
  'paper-int8': 2,
  'int4-qk': 3,
  fp32: 4,
};
const TYPE_CODES: Record<FloatType | 'int8', number> = { float32: 0, float16: 1, bfloat16: 2, int8: 3 };
const MASK_CODES = { bool: 1, float32: 2 } as const; // 0: none
const CACHE_CODES = { fp32: 0, int8: 1, int4: 2, fp16: 3 } as const;

/** Index in `supportedIsas()`, and the number of threads. */
export interface Placement {
  readonly isa: number;
  readonly threads: number;
  /** Ask for checksums of the int32 accumulators; tests only. */
  readonly checksums?: boolean;
}

/** Arrays that a backend's calls fill anew: the addon reads them before a call returns, and a short one would notice the garbage. */
export class AttentionParameters {
  readonly numbers = new Float64Array(ATTENTION_PARAMETERS);
  readonly #oneSpan = new Float64Array(SPAN);

  /** [qStart, qLen, kStart, kLen] of each sequence. */
  spans({ sequences }: AttentionGeometry): Float64Array {
    const spans = sequences.length === 1 ? this.#oneSpan : new Float64Array(sequences.length * SPAN);
    let at = 0;
    for (const { qStart, qLen, kStart, kLen } of sequences) {
      spans[at++] = qStart;
      spans[at++] = qLen;
      spans[at++] = kStart;
      spans[at++] = kLen;
    }
    return spans;
  }
}

const ATTENTION_PARAMETERS = 50;
const SPAN = 4;

/**
 * All arguments of the addon's `attention` up to the mask: the other half of native/attention_binding.cc.
 *
 * @param parameters Overwritten; part of what is returned.
 */
export function attentionArguments(
  plan: AttentionPlan | QuantizedAttentionPlan,
  placement: Placement,
  parameters: AttentionParameters = new AttentionParameters(),
): unknown[] {
  const coded = 'queryScale' in plan ? plan : undefined;
  const type = (name: 'query' | 'key' | 'value') => TYPE_CODES[coded ? 'int8' : (plan as AttentionPlan)[name].type];
  const { mask, sequences } = plan;
  const out = parameters.numbers.fill(0);
  out[0] = placement.isa;
  out[1] = placement.threads;
  out[2] = PRECISION_CODES[plan.precision];
  out[3] = !coded && (plan as AttentionPlan).smoothK ? 1 : 0;
  out[4] = plan.heads;
  out[5] = plan.kvHeads;
  out[6] = plan.headDim;
  out[7] = plan.headDimV;
  out[8] = plan.scale;
  out[9] = plan.softcap;
  out[10] = plan.windowLeft;
  out[11] = plan.windowRight;
  out[12] = plan.diagonal === 'bottom-right' ? 1 : 0;
  out[13] = sequences.length;
  out[14] = type('query');
  out[15] = type('key');
  out[16] = type('value');
  setStrides(out, 17, plan.query.strides);
  setStrides(out, 20, plan.key.strides);
  setStrides(out, 23, plan.value.strides);
  setStrides(out, 26, plan.outStrides);
  setStrides(out, 29, plan.lseStrides);
  if (coded) {
    setStrides(out, 32, coded.queryScale.strides);
    setStrides(out, 35, coded.keyScale.strides);
    setStrides(out, 38, coded.valueScale.strides);
    if (coded.valueChannelScale) setStrides(out, 41, coded.valueChannelScale.strides);
  }
  if (mask) {
    out[44] = MASK_CODES[mask.type];
    out[45] = mask.strides.batch;
    out[46] = mask.strides.head;
    out[47] = mask.strides.query;
    out[48] = mask.strides.key;
  }
  out[49] = placement.checksums ? 1 : 0;
  return [
    out,
    parameters.spans(plan),
    plan.query.data,
    plan.key.data,
    plan.value.data,
    coded?.queryScale.data,
    coded?.keyScale.data,
    coded?.valueScale.data,
    coded?.valueChannelScale?.data,
    mask?.data,
  ];
}

function setStrides(out: Float64Array, at: number, { batch, head, token }: RowStrides): void {
  out[at] = batch;
  out[at + 1] = head;
  out[at + 2] = token;
}

/** Parameters of the addon's `cacheAttention`, written into `out`: a decode step makes one call a layer, without garbage. */
export function cacheParameters(args: CacheAttentionArgs, placement: Placement, out: Float64Array): Float64Array {
  const { cache } = args;
  out[0] = placement.isa;
  out[1] = placement.threads;
  out[2] = CACHE_CODES[cache.type];
  out[3] = cache.kvHeads;
  out[4] = cache.capacity;
  out[5] = cache.headDim;
  out[6] = cache.length;
  out[7] = args.tokens;
  out[8] = args.heads;
  out[9] = args.scale;
  out[10] = args.softcap;
  out[11] = args.windowLeft;
  return out;
}

export const CACHE_PARAMETERS = 12;

/** Parameters of the addon's `appendCache`, as {@link cacheParameters}. */
export function appendParameters(args: CacheAppendArgs, { isa, threads }: Placement, out: Float64Array): Float64Array {
  const { cache } = args;
  out[0] = isa;
  out[1] = threads;
  out[2] = cache.kvHeads;
  out[3] = cache.capacity;
  out[4] = cache.headDim;
  out[5] = cache.length;
  out[6] = args.tokens;
  out[7] = args.keyOffset;
  out[8] = args.valueOffset;
  out[9] = args.stride;
  out[10] = cache.type === 'int4' ? 1 : 0;
  return out;
}

export const APPEND_PARAMETERS = 11;
