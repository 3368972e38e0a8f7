// One attention call: what was asked, and the launches that answer it.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "baseline_flash_fwd.h"
#include "buffer.h"
#include "check_operands.h"
#include "operand.h"
#include "operation.h"
#include "quantize.h"
#include "sorted_forward.h"
#include "source.h"

namespace intflash {

/** From kFloat16 on: what INT8 is compared with (baseline_flash_fwd.h). kFlashD is float16 without the final division. */
enum class Precision : int32_t { kFullInt8, kHalfInt8, kPaperInt8, kInt4Qk, kFloat32, kFloat64, kFloat16, kBfloat16, kFp8, kFlashD };

/** Who computes full-int8 and half-int8 of floats. kAuto: the last of these that can. */
enum class KernelChoice : int32_t { kAuto, kPortable, kSorted, kHopper };

struct FloatOrCodes {
    Source data;
    ElementType type;
    RowStrides strides;
    Source scale;  // codes only
    RowStrides scale_strides{};
};

struct AttentionRequest {
    Precision precision;
    KernelChoice kernel = KernelChoice::kAuto;
    bool smooth_k = false;
    int heads, kv_heads, head_dim, head_dim_v;
    ElementType out_type = ElementType::kFloat32;  // honoured on sorted tiles; AttentionAnswer::out_type says what came
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
    AbortFlag abort;
    int repeats = 0;  // of the forward kernel and of the quantizers, for timing
};

class AttentionOperation final : public Operation {
public:
    /**
     * Plans on the worker thread of `stream`: allocates what the launches need and copies what lies on the host. Launches go to the
     * same stream, or to another once this one was waited for.
     * @throws Failure
     */
    AttentionOperation(Stream& stream, const AttentionRequest& request, std::shared_ptr<FindingsSheet> sheet);

    void launch(cudaStream_t stream, const AbortFlag& abort) const override;
    void judge() const override;

    // What `launch` consists of, for whoever times the parts.
    void check(cudaStream_t stream) const;
    void quantize(cudaStream_t stream) const;
    void attend(cudaStream_t stream) const;
    void restore(cudaStream_t stream) const;

    const std::shared_ptr<Buffer>& out() const { return out_; }
    const std::shared_ptr<Buffer>& lse() const { return lse_; }
    KernelChoice kernel() const { return kernel_; }
    ElementType out_type() const { return out_type_; }
    /** Null where the kernel reads other tiles. */
    const SortedForward* sorted() const { return sorted_.get(); }

private:
    bool stays_float() const { return precision_ == Precision::kFloat32 || precision_ == Precision::kFloat64; }
    bool is_baseline() const { return precision_ >= Precision::kFloat16; }
    bool is_half() const { return precision_ == Precision::kHalfInt8; }
    bool is_paper() const { return precision_ == Precision::kPaperInt8; }
    bool is_sorted() const { return kernel_ == KernelChoice::kSorted || kernel_ == KernelChoice::kHopper; }
    bool is_empty() const { return table_.count == 0 || table_.max_q_len == 0; }

    std::vector<Sequence> lay_out_sequences(Stream& stream, const AttentionRequest& request);
    void plan_geometry(Stream& stream, const AttentionRequest& request);
    void plan_int8(Stream& stream, const AttentionRequest& request, const std::vector<Sequence>& sequences);
    void plan_portable(Stream& stream, const AttentionRequest& request);
    void plan_inspection(Stream& stream);
    void plan_baseline(Stream& stream, const AttentionRequest& request);
    const void* on_device(Stream& stream, const Source& source);
    Operand operand(Stream& stream, const FloatOrCodes& from, int heads, int dim);
    ScaleOperand scales(Stream& stream, const Source& source, const RowStrides& strides, Given what);
    void check_given(cudaStream_t stream) const;
    void inspect(cudaStream_t stream) const;

    const Precision precision_;
    const std::shared_ptr<FindingsSheet> sheet_;
    const int place_;
    const KernelChoice kernel_;
    ElementType out_type_ = ElementType::kFloat32;
    LaunchLimits limits_{};
    std::shared_ptr<Buffer> out_, lse_;
    std::vector<std::shared_ptr<Buffer>> held_;  // the caller's, copies of what lay on the host, and the workspace
    SequenceTable table_{};
    int64_t rows_ = 0, tiles_ = 0, keys_ = 0;
    ForwardArgs args_{};
    Operand query_{}, key_{}, value_{};
    uint32_t unseen_ = 0;  // bits of Given: what lay on the device, so that TypeScript has not looked at its numbers
    QuantizeRequest quantize_{};           // INT8 precisions
    std::unique_ptr<const SortedForward> sorted_;  // kSorted and kHopper
    std::shared_ptr<Buffer> head_maxima_;  // fp32
    BaselineRequest baseline_{};           // from kFloat16 on
};

struct AttentionAnswer {
    std::shared_ptr<Buffer> out, lse;
    KernelChoice kernel = KernelChoice::kPortable;
    ElementType out_type = ElementType::kFloat32;
    double quantize_ms = 0;
    std::vector<float> forward_ms, quantize_repeat_ms;  // one a repeat
    std::shared_ptr<const Operation> operation;         // for a graph to keep
};

/** On the worker thread of `stream`; returns once the answer is complete. @throws Failure, Aborted */
AttentionAnswer run_attention(Stream& stream, const AttentionRequest& request, std::shared_ptr<FindingsSheet> sheet);

/** Milliseconds of each of `repeats` copies of `bytes` within the device. On the worker thread of `stream`. */
std::vector<float> copy_times(Stream& stream, size_t bytes, int repeats);

}  // namespace intflash
