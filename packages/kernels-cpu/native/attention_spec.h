// What an attention call is about: where its operands lie, their shapes, its options.
#pragma once
#include "failure.h"
#include "kernel_table.h"

namespace int_flash {

struct Strides {
    int64_t batch, head, token;

    int64_t at(int64_t b, int64_t h, int64_t n) const { return b * batch + h * head + n * token; }
};

struct Operand {
    const void* data = nullptr;
    ElementType type = ElementType::kFloat32;
    Strides strides{0, 0, 0};
};

struct ScaleOperand {
    const float* data = nullptr;
    Strides strides{0, 0, 0};
};

struct Sequence {
    int64_t q_start, q_len, k_start, k_len;
};

// Shapes and operands, checked by the binding: every row they reach lies inside its array.
struct AttentionSpec {
    const KernelTable* kernels = nullptr;
    int threads = 1;
    Precision precision = Precision::kFullInt8;
    bool smooth_k = true;
    int heads = 0, kv_heads = 0, head_dim = 0, head_dim_v = 0;
    float scale = 0, softcap = 0;
    int64_t window_left = -1, window_right = -1;  // -1: unlimited
    bool bottom_right = false;
    int64_t sequences = 0;
    Operand query, key, value;
    ScaleOperand query_scale, key_scale, value_scale, channel_scale;  // int8 operands only
    MaskType mask_type = MaskType::kNone;
    const void* mask = nullptr;
    int64_t mask_batch = 0, mask_head = 0, mask_query = 0, mask_key = 0;
    float* out = nullptr;
    Strides out_strides{0, 0, 0};
    float* lse = nullptr;  // null: not wanted
    Strides lse_strides{0, 0, 0};
    bool checksums = false;
};

// Fails with ERR_NONFINITE and the first NaN or Infinity of the query, the key or the value, in this order. Always false.
bool report_nonfinite(const AttentionSpec& spec, const Sequence* sequences, Failure* failure);

}  // namespace int_flash
