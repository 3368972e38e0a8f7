// One attention call: what was asked, and the launches that answer it.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "device.h"
#include "operand.h"

namespace intflash {

/** Memory of the caller: on the device already, or on the host, to be copied. */
struct Source {
    std::shared_ptr<Buffer> buffer;            // on the device, or …
    std::shared_ptr<std::vector<uint8_t>> copy;  // … a copy on the host, or …
    const void* borrowed = nullptr;            // … the caller's own memory, while the caller waits
    size_t bytes = 0, offset = 0;              // offset: into `buffer`
    bool present() const { return buffer || copy || borrowed != nullptr; }
};

enum class Precision : int32_t { kFullInt8, kHalfInt8, kPaperInt8, kInt4Qk, kFloat32, kFloat64 };

struct FloatOrCodes {
    Source data;
    ElementType type;
    RowStrides strides;
    Source scale;  // codes only
    RowStrides scale_strides{};
};

struct AttentionRequest {
    Precision precision;
    bool smooth_k = false;
    int heads, kv_heads, head_dim, head_dim_v;
    std::vector<Sequence> sequences;  // q_start, q_len, k_start, k_len; the rest is filled in
    float scale, softcap;
    int64_t window_left, window_right;
    bool bottom_right;
    FloatOrCodes query, key, value;
    Source channel_scale;  // of V codes
    RowStrides channel_strides{};
    Source mask;
    MaskOperand mask_strides{};
    RowStrides out_strides{}, lse_strides{};
    int64_t out_elements, lse_elements;
    bool want_lse = false;
    // Where the answer goes: host memory that outlives the call, or, when null, new buffers.
    float *host_out = nullptr, *host_lse = nullptr;
    std::shared_ptr<std::atomic<bool>> aborted;
    int repeats = 0;  // of the forward kernel and of the quantizers, for timing
};

struct AttentionAnswer {
    std::shared_ptr<Buffer> out, lse;
    double quantize_ms = 0;
    std::vector<float> forward_ms, quantize_repeat_ms;  // one a repeat
};

/** On the device's worker thread; returns once the answer is complete. @throws Failure, Aborted */
AttentionAnswer run_attention(Device& device, AttentionRequest& request);

/** Milliseconds of each of `repeats` copies of `bytes` within the device. On its worker thread. */
std::vector<float> copy_times(Device& device, size_t bytes, int repeats);

}  // namespace intflash
