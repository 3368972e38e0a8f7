import { type AttentionPlan, type Backend, noHostMemory, type QuantizedAttentionPlan } from '@int-flash/ops';
import { attendCodes, attendFloats } from './portable-attention-steps.js';
import { attendCache } from './portable-cache-attention.js';
import { runInSlices, runNow } from './portable-job-queue.js';
import { type ByteCounter, createPortableLinear } from './portable-linear.js';

/**
 * The backend in plain TypeScript: runs wherever Node does, on the calling thread, and gives the native one's integers
 * (docs/arithmetic.md). Asynchronous calls yield to the event loop every few milliseconds.
 */
export function createPortableBackend(): Backend {
  const counter: ByteCounter = { bytes: 0 };
  return {
    name: 'portable',
    status: () => ({
      name: 'portable',
      available: true,
      detail: 'TypeScript on the calling thread',
      isa: 'typescript',
      threads: 1,
    }),
    attention: async (plan, signal) => {
      signal?.throwIfAborted();
      return runInSlices(attendFloats(copyPlan(plan)), signal);
    },
    attentionSync: (plan) => runNow(attendFloats(plan)),
    quantizedAttention: async (plan, signal) => {
      signal?.throwIfAborted();
      return runInSlices(attendCodes(copyQuantizedPlan(plan)), signal);
    },
    quantizedAttentionSync: (plan) => runNow(attendCodes(plan)),
    cacheAttentionSync: (args, out) => attendCache(args, out),
    createLinear: (weights) => createPortableLinear(weights, counter),
    liveBytes: () => counter.bytes,
  };
}

interface Copyable {
  readonly byteLength: number;
  slice(): object;
}

function copyOf(data: Copyable): object {
  try {
    return data.slice();
  } catch (cause) {
    throw noHostMemory(data.byteLength, 'a copy of the inputs', { cause });
  }
}

/** Copies each array once, however many operands are views of it. */
function arrayCopier() {
  const copies = new Map<object, object>();
  return <T extends { readonly data: Copyable } | undefined>(operand: T): T => {
    if (!operand) return operand;
    const copy = copies.get(operand.data) ?? copyOf(operand.data);
    copies.set(operand.data, copy);
    return { ...operand, data: copy };
  };
}

function copyPlan(plan: AttentionPlan): AttentionPlan {
  const copy = arrayCopier();
  return { ...plan, query: copy(plan.query), key: copy(plan.key), value: copy(plan.value), mask: copy(plan.mask) };
}

function copyQuantizedPlan(plan: QuantizedAttentionPlan): QuantizedAttentionPlan {
  const copy = arrayCopier();
  return {
    ...plan,
    query: copy(plan.query),
    key: copy(plan.key),
    value: copy(plan.value),
    mask: copy(plan.mask),
    queryScale: copy(plan.queryScale),
    keyScale: copy(plan.keyScale),
    valueScale: copy(plan.valueScale),
    valueChannelScale: copy(plan.valueChannelScale),
  };
}
