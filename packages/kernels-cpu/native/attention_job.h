// One attention call: quantize and pack the keys and values of every head, then compute blocks of queries.
// Knows nothing of JavaScript. All memory is taken before the first task runs; tasks only compute.
#pragma once
#include <atomic>

#include "call_memory.h"
#include "failure.h"
#include "kernel_table.h"

namespace int_flash {

struct Strides {
    int64_t batch, head, token;
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

class AttentionJob {
public:
    // `sequences` is copied.
    bool prepare(const AttentionSpec& spec, const Sequence* sequences, LiveBytes* live, Failure* failure);
    // False: `failure` says why, or the job was aborted.
    bool run(Failure* failure);
    void abort() { aborted_ = true; }
    bool aborted() const { return aborted_; }
    Checksums checksums() const { return {score_checksum_, product_checksum_}; }
    AttentionSpec& spec() { return spec_; }

private:
    struct Head {
        HeadPack pack;
        float* channel_max;
        std::atomic<uint32_t> key_bits, value_bits;  // largest magnitudes
        std::atomic<uint32_t> key_scale_bits;
    };
    struct ChunkPlace;

    void lay_out(Arena* arena);
    void gather_statistics(int64_t task);
    void pack_chunk(int64_t task);
    void compute_block(int64_t task);
    void prepare_operand(int64_t task);
    void compute_head(int64_t task);
    bool report_nonfinite(Failure* failure) const;
    bool smoothing() const;

    AttentionSpec spec_;
    Sequence* sequence_ = nullptr;
    Head* head_ = nullptr;  // [sequences][kv_heads]
    int64_t* first_chunk_ = nullptr;  // [sequences + 1], chunks of keys of one head
    int64_t* first_block_ = nullptr;  // [sequences + 1], blocks of queries of one head
    int block_rows_ = kMaxBlockRows;
    CallMemory memory_;
    volatile bool aborted_ = false;
    std::atomic<bool> nonfinite_{false}, overflow_{false}, out_of_memory_{false};
    std::atomic<uint64_t> score_checksum_{0}, product_checksum_{0};
};

}  // namespace int_flash
