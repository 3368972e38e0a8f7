// Attention of few queries over many keys, Hopper's forward: a sequence's keys are cut into parts that different processors work on at once, each with an answer of its own.
// Here those are put together, always in the same order.
#pragma once
#include <cuda_runtime_api.h>

#include "forward_args.h"
#include "operand.h"
#include "sorted_layout.h"

namespace intflash {

/** Answers to parts of the keys: rows as SortedSequence::part_base has them. */
struct PartRows {
    float* out;  // [rows][padded]
    float* lse;  // [rows]
};

struct MergedRows {
    void* out;
    ElementType out_type;  // float32, float16 or bfloat16
    float* lse;            // null: not wanted
    RowStrides out_strides, lse_strides;
    int heads, head_dim_v, padded;
};

/** Of those of `count` sequences that are in parts; they have up to `most_queries` queries each. */
cudaError_t launch_merge_parts(const PartRows& parts, const SortedSequence* sequences, int count, int most_queries, const MergedRows& merged, cudaStream_t stream);

}  // namespace intflash
