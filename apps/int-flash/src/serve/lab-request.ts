import { PRECISIONS } from '@int-flash/ops';
import { INPUT_FAMILIES } from '@int-flash/reference';
import { z } from 'zod';

/** Elements of a head's Q, K or V: drawing them holds up the event loop, for about 50 ms at this size. */
const MAX_HEAD_ELEMENTS = 2 ** 19;
/** Multiplications of both matrix products: a second or two of the native backend on two cores. */
const MAX_PRODUCTS = 2 ** 35;

/** The body of POST /api/attention-lab. */
export const LabRequest = z
  .strictObject({
    family: z.enum(INPUT_FAMILIES),
    /** Queries and keys alike. */
    tokens: z.int().min(1).max(4096),
    heads: z.int().min(1).max(16),
    headDim: z.int().min(8).max(256).multipleOf(8),
    isCausal: z.boolean().default(false),
    seed: z
      .int()
      .min(0)
      .max(2 ** 31 - 1)
      .default(1),
    variants: z
      .array(z.enum(PRECISIONS))
      .min(1)
      .max(PRECISIONS.length)
      .default([...PRECISIONS]),
  })
  .refine(({ tokens, headDim }) => tokens * headDim <= MAX_HEAD_ELEMENTS, {
    path: ['tokens'],
    error: `Expected tokens × headDim of at most ${MAX_HEAD_ELEMENTS}.`,
  })
  .refine(({ tokens, heads, headDim }) => 2 * heads * tokens ** 2 * headDim <= MAX_PRODUCTS, {
    path: ['tokens'],
    error: `Expected 2 × heads × tokens² × headDim of at most ${MAX_PRODUCTS}.`,
  })
  .refine(({ variants }) => new Set(variants).size === variants.length, {
    path: ['variants'],
    error: 'Expected each variant once.',
  });

export type LabRequest = z.infer<typeof LabRequest>;
