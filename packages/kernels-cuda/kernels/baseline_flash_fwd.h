// What INT8 is measured against, in the same code: attention in float16, bfloat16 or FP8 (e4m3) on tensor cores by mma.sync.
// For benchmarks and comparisons.
#pragma once
#include <cuda_runtime_api.h>

#include "operand.h"
#include "quantize.h"

namespace intflash {

/** kFp8 needs compute capability 8.9. Each operand has one scale a head of a sequence, as in FlashAttention-3. */
enum class BaselineKind : int32_t { kFloat16, kBfloat16, kFp8 };

struct BaselineRequest {
    Operand query, key, value;
    ForwardArgs geometry;  // scale, softcap, band, mask, output; the parts about codes are not used
    BaselineKind kind;
    int32_t padded;
    int32_t flash_d;  // float16 only: keep O normalised, and no division at the end (FLASH-D, arXiv:2505.14201)
    int32_t padding;
    Findings* findings;
    // From here on filled in by place_baseline.
    HeadMaxima maxima;        // of |q| and |k|
    uint32_t* value_maxima;   // [sequence][kv head]
    size_t cleared_bytes;
    uint8_t* rows;            // Q: [row][padded]
    uint8_t* tiles;           // 64 keys each: K [key][padded], then V [key][padded], or for kFp8 [channel][64 keys in key_position order]
};

/** Lays the workspace out from `memory` (1024-byte aligned; null to find the size) on. @returns its bytes */
size_t place_baseline(BaselineRequest& request, const SequenceTable& table, int64_t row_count, int64_t tile_count, uint8_t* memory);

/** Inputs to operands of tensor cores, and what is wrong with them. */
cudaError_t launch_baseline_pack(const BaselineRequest& request, const SequenceTable& table, cudaStream_t stream);

cudaError_t launch_baseline_fwd(const BaselineRequest& request, const LaunchLimits& limits, cudaStream_t stream);

}  // namespace intflash
