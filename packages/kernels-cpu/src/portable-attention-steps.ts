import {
  type AttentionGeometry,
  type AttentionPlan,
  type AttentionResult,
  hostArrayOf,
  type QuantizedAttentionPlan,
  type SequenceSpan,
} from '@int-flash/ops';
import { LESS_AT_ONCE } from './less-at-once.js';
import type { Steps } from './portable-float-rows.js';
import { TILE_KEYS } from './portable-key-value.js';
import {
  type PreparedKeys,
  prepareCodedKeys,
  prepareCodedQueries,
  prepareFloatKeys,
  prepareFloatQueries,
  type QueryHead,
} from './portable-operands.js';
import { BLOCK_ROWS, RowBlock } from './portable-row-block.js';
import { checkScoreBound } from './portable-score-bound.js';

/** Where one precision differs from another, once the operands are prepared. */
interface Source {
  readonly maxCode: number;
  readonly runningMax: boolean;
  keys(batch: number, kvHead: number, span: SequenceSpan): Steps<PreparedKeys>;
  queries(batch: number, head: number, span: SequenceSpan, keys: PreparedKeys): Steps<QueryHead>;
}

/** Attention on float inputs, in steps of at most a few milliseconds. */
export function attendFloats(plan: AttentionPlan): Steps<AttentionResult> {
  const codes = plan.precision === 'full-int8' || plan.precision === 'int4-qk' ? 255 : 0;
  return attend(plan, {
    maxCode: plan.precision === 'paper-int8' ? 127 : codes,
    runningMax: plan.precision === 'paper-int8',
    keys: (batch, kvHead, span) => prepareFloatKeys(plan, batch, kvHead, span),
    queries: (batch, head, span, keys) => prepareFloatQueries(plan, batch, head, span, keys.keyMean),
  });
}

/** Attention on the caller's codes. */
export function attendCodes(plan: QuantizedAttentionPlan): Steps<AttentionResult> {
  const paper = plan.precision === 'paper-int8';
  return attend(plan, {
    maxCode: paper ? 127 : 255,
    runningMax: paper,
    keys: (batch, kvHead, span) => prepareCodedKeys(plan, batch, kvHead, span),
    queries: (batch, head, span) => prepareCodedQueries(plan, batch, head, span),
  });
}

function* attend(plan: AttentionGeometry, source: Source): Steps<AttentionResult> {
  const out = hostArrayOf(Float32Array, plan.outDims, 'the answer', LESS_AT_ONCE);
  const lse = plan.returnLse ? hostArrayOf(Float32Array, plan.lseDims, 'lse', LESS_AT_ONCE) : undefined;
  const block = new RowBlock({
    headDim: plan.headDim,
    headDimV: plan.headDimV,
    maxCode: source.maxCode,
    runningMax: source.runningMax,
    softcap: Math.fround(plan.softcap),
    mask: plan.mask,
  });
  const group = plan.heads / plan.kvHeads;
  for (const [batch, span] of plan.sequences.entries()) {
    for (let kvHead = 0; kvHead < plan.kvHeads; kvHead++) {
      const keys = yield* source.keys(batch, kvHead, span);
      for (let head = kvHead * group; head < (kvHead + 1) * group; head++) {
        const queries = yield* source.queries(batch, head, span, keys);
        checkScoreBound(queries.magnitude, keys.magnitude, plan.headDim, plan.scale);
        for (let first = 0; first < span.qLen; first += BLOCK_ROWS) {
          const rows = Math.min(BLOCK_ROWS, span.qLen - first);
          loadRows(block, plan, queries, batch, head, span, first, rows);
          const bounds = block.bounds();
          for (let tile = bounds.first - (bounds.first % TILE_KEYS); tile < bounds.end; tile += TILE_KEYS) {
            block.absorbTile(keys.head, tile, Math.max(bounds.first - tile, 0), Math.min(bounds.end - tile, TILE_KEYS));
            yield;
          }
          for (let row = 0; row < rows; row++) {
            const token = span.qStart + first + row;
            const at = batch * plan.outStrides.batch + head * plan.outStrides.head + token * plan.outStrides.token;
            const rowLse = block.finishRow(row, keys.head.epilogue, out, at);
            if (lse)
              lse[batch * plan.lseStrides.batch + head * plan.lseStrides.head + token] =
                rowLse + (queries.lseShift?.[first + row] ?? 0);
          }
        }
      }
    }
  }
  return lse ? { out, lse } : { out };
}

function loadRows(
  block: RowBlock,
  plan: AttentionGeometry,
  queries: QueryHead,
  batch: number,
  head: number,
  span: SequenceSpan,
  first: number,
  rows: number,
): void {
  const { headDim, mask } = plan;
  const diagonal = plan.diagonal === 'bottom-right' ? span.kLen - span.qLen : 0;
  const scale = plan.scale;
  block.start(rows);
  block.query.set(queries.rows.subarray(first * headDim, (first + rows) * headDim));
  for (let row = 0; row < rows; row++) {
    const query = first + row;
    const firstKey = Math.max(query + diagonal - plan.windowLeft, 0);
    const endKey = Math.min(query + diagonal + plan.windowRight + 1, span.kLen);
    const maskStart = mask ? batch * mask.strides.batch + head * mask.strides.head + query * mask.strides.query : 0;
    block.setRow(row, Math.fround(queries.scales[query]! * scale), firstKey, endKey, maskStart);
  }
}
