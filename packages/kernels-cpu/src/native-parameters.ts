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
const MASK_CODES = { none: 0, bool: 1, float32: 2 } as const;
const CACHE_CODES = { fp32: 0, int8: 1, int4: 2, fp16: 3 } as const;
const NO_STRIDES: RowStrides = { batch: 0, head: 0, token: 0 };

/** Index in `supportedIsas()`, and the number of threads. */
export interface Placement {
  readonly isa: number;
  readonly threads: number;
  /** Ask for checksums of the int32 accumulators; tests only. */
  readonly checksums?: boolean;
}

/** All arguments of the addon's `attention` up to the mask: the other half of native/attention_binding.cc. */
export function attentionArguments(plan: AttentionPlan | QuantizedAttentionPlan, placement: Placement): unknown[] {
  const coded = 'queryScale' in plan ? plan : undefined;
  const type = (name: 'query' | 'key' | 'value') => TYPE_CODES[coded ? 'int8' : (plan as AttentionPlan)[name].type];
  const mask = plan.mask;
  const parameters = Float64Array.of(
    placement.isa,
    placement.threads,
    PRECISION_CODES[plan.precision],
    !coded && (plan as AttentionPlan).smoothK ? 1 : 0,
    plan.heads,
    plan.kvHeads,
    plan.headDim,
    plan.headDimV,
    plan.scale,
    plan.softcap,
    plan.windowLeft,
    plan.windowRight,
    plan.diagonal === 'bottom-right' ? 1 : 0,
    plan.sequences.length,
    type('query'),
    type('key'),
    type('value'),
    ...flat(plan.query.strides),
    ...flat(plan.key.strides),
    ...flat(plan.value.strides),
    ...flat(plan.outStrides),
    ...flat(plan.lseStrides),
    ...flat(coded?.queryScale.strides),
    ...flat(coded?.keyScale.strides),
    ...flat(coded?.valueScale.strides),
    ...flat(coded?.valueChannelScale?.strides),
    MASK_CODES[mask?.type ?? 'none'],
    mask?.strides.batch ?? 0,
    mask?.strides.head ?? 0,
    mask?.strides.query ?? 0,
    mask?.strides.key ?? 0,
    placement.checksums ? 1 : 0,
  );
  return [
    parameters,
    spanArray(plan),
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

function spanArray({ sequences }: AttentionGeometry): Float64Array {
  const spans = new Float64Array(sequences.length * 4);
  sequences.forEach(({ qStart, qLen, kStart, kLen }, i) => {
    spans.set([qStart, qLen, kStart, kLen], i * 4);
  });
  return spans;
}

function flat({ batch, head, token }: RowStrides = NO_STRIDES): [number, number, number] {
  return [batch, head, token];
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
export function appendParameters(args: CacheAppendArgs, { isa }: Placement, out: Float64Array): Float64Array {
  const { cache } = args;
  out[0] = isa;
  out[1] = cache.kvHeads;
  out[2] = cache.capacity;
  out[3] = cache.headDim;
  out[4] = cache.length;
  out[5] = args.tokens;
  out[6] = args.keyOffset;
  out[7] = args.valueOffset;
  out[8] = args.stride;
  return out;
}

export const APPEND_PARAMETERS = 9;
