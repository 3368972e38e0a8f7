// One attention call: quantize and pack the keys and values of every head, then compute blocks of queries.
// Knows nothing of JavaScript. All memory is taken before the first task runs; tasks only compute.
#pragma once
#include <atomic>

#include "attention_spec.h"
#include "call_memory.h"
#include "failure.h"

namespace int_flash {

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
    struct HeadRoom {
        HeadPack pack;
        float* channel_max;
    };
    struct Head {
        HeadRoom room;
        std::atomic<uint32_t> key_bits, value_bits;  // largest magnitudes
        std::atomic<uint32_t> key_scale_bits;
    };
    // What a thread borrows for a head, where threads do whole heads: with many short sequences a room for each would take many times the inputs' memory.
    struct Lent {
        HeadRoom room;
        std::atomic<bool> taken;
    };

    void plan(const Sequence* sequences);
    void take_room(Arena* arena, int64_t tokens, HeadRoom* room) const;
    void lay_out(Arena* arena);
    void gather_statistics(int64_t task);
    void pack_chunk(int64_t task);
    void compute_block(int64_t task);
    void prepare_operand(int64_t task);
    void compute_head(int64_t task);
    bool smoothing() const;

    AttentionSpec spec_;
    Sequence* sequence_ = nullptr;
    Head* head_ = nullptr;  // [sequences][kv_heads]
    Lent* lent_ = nullptr;  // [threads_], where threads do whole heads
    int64_t* first_chunk_ = nullptr;  // [sequences + 1], chunks of keys of one head
    int64_t* first_block_ = nullptr;  // [sequences + 1], blocks of queries of one head
    int block_rows_ = kMaxBlockRows, threads_ = 1;
    bool short_heads_ = false;  // threads do whole heads
    CallMemory memory_;
    volatile bool aborted_ = false;
    std::atomic<bool> nonfinite_{false}, overflow_{false}, out_of_memory_{false};
    std::atomic<uint64_t> score_checksum_{0}, product_checksum_{0};
};

}  // namespace int_flash
