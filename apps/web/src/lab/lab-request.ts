/** What the page asks of POST /api/attention-lab; apps/int-flash judges it. */
export interface LabRequest {
  readonly family: string;
  readonly tokens: number;
  readonly heads: number;
  readonly headDim: number;
  readonly isCausal: boolean;
  readonly seed: number;
  readonly variants: readonly string[];
}

export interface LabResult {
  readonly variant: string;
  /** Median of `repeats` calls, float32 in and out. */
  readonly ms: number;
  readonly repeats: number;
  /** Against float64 softmax attention. */
  readonly relativeL2: number;
  readonly cosine: number;
  /** Largest |difference| of one element. */
  readonly worst: number;
}

export interface LabBegin {
  readonly backend: { readonly name: string; readonly isa?: string; readonly threads?: number };
  /** So many of the rows of each head are compared with float64. */
  readonly checkedRows: number;
}

export type LabEvent =
  | ({ readonly type: 'begin' } & LabBegin)
  | { readonly type: 'progress'; readonly share: number; readonly doing: string }
  | ({ readonly type: 'result' } & LabResult)
  | { readonly type: 'unavailable'; readonly variant: string; readonly why: string }
  | { readonly type: 'end' };
