#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "choose_kernel.h"
#include "float_flash_fwd.h"
#include "host_copy.h"
#include "int8_flash_fwd.h"
#include "running_code.h"
#include "tile_layout.h"

namespace intflash {
namespace {

constexpr int kMaxGrid = 65535;  // CUDA's limit on blockIdx.y and z
constexpr int64_t kMaxHeads = int64_t{1} << 30;  // 32 bits count them

/** A timestamp in a stream. */
class Timestamp {
public:
    explicit Timestamp(cudaStream_t stream) {
        check_cuda(cudaEventCreate(&event_), "create an event");
        if (const cudaError_t status = cudaEventRecord(event_, stream)) {
            cudaEventDestroy(event_);
            check_cuda(status, "record an event");
        }
    }
    ~Timestamp() { cudaEventDestroy(event_); }
    Timestamp(const Timestamp&) = delete;
    Timestamp& operator=(const Timestamp&) = delete;
    float since(const Timestamp& start) const {
        float ms = 0;
        check_cuda(cudaEventElapsedTime(&ms, start.event_, event_), "read an event");
        return ms;
    }

private:
    cudaEvent_t event_ = nullptr;
};

/**
 * Milliseconds of each of `repeats` launches. Short ones are queued some at a time, so that the device never waits for this thread and the
 * times are its own; `between` runs in the pauses.
 */
template <class Launch, class Between> std::vector<float> time_each(Stream& stream, int repeats, const Launch& launch, const Between& between) {
    constexpr size_t kTogether = 8;
    constexpr float kShort = 20.f;
    std::vector<float> times;
    for (size_t left = static_cast<size_t>(repeats); left > 0;) {
        const size_t count = times.empty() || times.back() > kShort ? 1 : std::min(left, kTogether);
        std::vector<std::pair<std::unique_ptr<Timestamp>, std::unique_ptr<Timestamp>>> marks;
        for (size_t i = 0; i < count; ++i) {
            auto start = std::make_unique<Timestamp>(stream.handle());
            launch();
            marks.emplace_back(std::move(start), std::make_unique<Timestamp>(stream.handle()));
        }
        stream.synchronize();
        for (const auto& [start, end] : marks) times.push_back(end->since(*start));
        left -= count;
        between();
    }
    return times;
}

std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", value);
    return text;
}

float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

}  // namespace

// ── plan ──
AttentionOperation::AttentionOperation(Stream& stream, const AttentionRequest& request, std::shared_ptr<FindingsSheet> sheet)
    : precision_(request.precision), sheet_(std::move(sheet)), place_(sheet_->take()), kernel_(choose_kernel(stream.device().facts(), request)) {
    const DeviceFacts& facts = stream.device().facts();
    limits_ = {facts.shared_bytes_per_block, facts.processors};
    const std::vector<Sequence> sequences = lay_out_sequences(stream, request);
    if (is_sorted() && request.host_out == nullptr && request.out_type == ElementType::kBfloat16) out_type_ = request.out_type;  // float16 can overflow, which a cast notices
    out_ = stream.allocate(static_cast<size_t>(request.out_elements) * (out_type_ == ElementType::kFloat32 ? sizeof(float) : 2));
    if (request.want_lse) lse_ = stream.allocate(static_cast<size_t>(request.lse_elements) * sizeof(float));
    // A cumulative table may leave rows of the output without a sequence; nothing else writes those.
    check_cuda(cudaMemsetAsync(out_->as(), 0, out_->bytes(), stream.handle()), "clear the output");
    if (lse_) check_cuda(cudaMemsetAsync(lse_->as(), 0, lse_->bytes(), stream.handle()), "clear the log-sum-exp");
    plan_geometry(stream, request);
    query_ = operand(stream, request.query, request.heads, request.head_dim);
    key_ = operand(stream, request.key, request.kv_heads, request.head_dim);
    value_ = operand(stream, request.value, request.kv_heads, request.head_dim_v);
    if (is_baseline()) plan_baseline(stream, request);
    else if (!stays_float()) plan_int8(stream, request, sequences);
    else if (precision_ == Precision::kFloat32) plan_inspection(stream);
}

std::vector<Sequence> AttentionOperation::lay_out_sequences(Stream& stream, const AttentionRequest& request) {
    std::vector<Sequence> sequences = request.sequences;
    for (Sequence& sequence : sequences) {
        sequence.tiles = (sequence.k_len + kTileKeys - 1) / kTileKeys;
        sequence.q_row_base = rows_;
        sequence.tile_base = tiles_;
        rows_ += static_cast<int64_t>(sequence.q_len) * request.heads;
        tiles_ += static_cast<int64_t>(sequence.tiles) * request.kv_heads;
        table_.max_q_len = std::max(table_.max_q_len, sequence.q_len);
        table_.max_tiles = std::max(table_.max_tiles, sequence.tiles);
        keys_ = std::max(keys_, static_cast<int64_t>(sequence.k_len));
    }
    if (table_.max_q_len > (1 << 30) || int64_t{table_.max_tiles} * kTileKeys > (1 << 30))
        throw Failure("ERR_UNSUPPORTED", "Expected sequences of at most 2^30 tokens on CUDA");
    if (sequences.size() > static_cast<size_t>(kMaxGrid) || request.heads > kMaxGrid)
        throw Failure("ERR_UNSUPPORTED", "Expected at most 65535 sequences and heads on CUDA, got " + std::to_string(sequences.size()) + " and " +
                                             std::to_string(request.heads));
    if (static_cast<int64_t>(sequences.size()) * request.heads > kMaxHeads) throw Failure("ERR_UNSUPPORTED", "Expected at most 2^30 heads of all sequences on CUDA");
    table_.count = static_cast<int32_t>(sequences.size());
    const auto buffer = stream.allocate(sequences.size() * sizeof(Sequence));
    if (table_.count > 0)
        check_cuda(cudaMemcpyAsync(buffer->as(), sequences.data(), buffer->bytes(), cudaMemcpyHostToDevice, stream.handle()), "copy the sequence table");
    table_.sequences = buffer->as<Sequence>();
    held_.push_back(buffer);
    return sequences;
}

void AttentionOperation::plan_geometry(Stream& stream, const AttentionRequest& request) {
    args_.sequences = table_.sequences;
    args_.out = out_->as<float>();
    args_.lse = lse_ ? lse_->as<float>() : nullptr;
    args_.out_strides = request.out_strides;
    args_.lse_strides = request.lse_strides;
    args_.mask = request.mask_strides;
    args_.mask.data = on_device(stream, request.mask);
    if (request.mask.buffer && request.mask_strides.is_float) unseen_ |= static_cast<uint32_t>(Given::kMask);
    args_.window_left = request.window_left;
    args_.window_right = request.window_right;
    args_.sequence_count = table_.count;
    args_.heads = request.heads;
    args_.kv_heads = request.kv_heads;
    args_.head_dim_v = request.head_dim_v;
    args_.max_q_len = table_.max_q_len;
    args_.bottom_right = request.bottom_right;
    args_.scale = request.scale;
    args_.softcap = request.softcap;
}

void AttentionOperation::plan_int8(Stream& stream, const AttentionRequest& request, const std::vector<Sequence>& sequences) {
    quantize_.query = query_;
    quantize_.key = key_;
    quantize_.value = value_;
    if (!is_float(query_)) quantize_.query_scale = scales(stream, request.query.scale, request.query.scale_strides, Given::kQueryScale);
    if (!is_float(key_)) quantize_.key_scale = scales(stream, request.key.scale, request.key.scale_strides, Given::kKeyScale);
    if (!is_float(value_)) {
        quantize_.value_scale = scales(stream, request.value.scale, request.value.scale_strides, Given::kValueScale);
        quantize_.value_channel = scales(stream, request.channel_scale, request.channel_strides, Given::kChannelScale);
    }
    quantize_.mode = is_half() ? ValueMode::kHalf : is_paper() ? ValueMode::kPerTensor : ValueMode::kTokenLevel;
    quantize_.padded = padded_dim(std::max(request.head_dim, request.head_dim_v));
    quantize_.levels = precision_ == Precision::kInt4Qk ? 7.f : 127.f;
    // A softcap is not blind to a shift of the scores, and the paper does not shift them.
    quantize_.smooth_k = is_float(key_) && request.smooth_k && request.softcap == 0.f && !is_paper();
    quantize_.scale = request.scale;
    quantize_.findings = sheet_->on_device(place_);
    const size_t statistics_bytes = place_workspace(quantize_, table_, tiles_, nullptr);
    place_workspace(quantize_, table_, tiles_, held_.emplace_back(stream.allocate(statistics_bytes))->as<uint8_t>());
    if (is_sorted()) {
        // Each run leaves it cleared for the next.
        check_cuda(cudaMemsetAsync(quantize_.head_maxima.query, 0, quantize_.cleared_bytes, stream.handle()), "clear the maxima");
        sorted_ = std::make_unique<SortedForward>(stream, kernel_ == KernelChoice::kHopper, quantize_, args_, out_type_, table_, sequences);
    } else {
        plan_portable(stream, request);
    }
}

void AttentionOperation::plan_portable(Stream& stream, const AttentionRequest& request) {
    const auto padded = static_cast<size_t>(quantize_.padded);
    const auto workspace = [&](size_t bytes) { return held_.emplace_back(stream.allocate(bytes)); };
    quantize_.rows.codes = workspace(static_cast<size_t>(rows_) * padded)->as<int8_t>();
    quantize_.rows.scales = workspace(static_cast<size_t>(rows_) * sizeof(float))->as<float>();
    quantize_.tiles = workspace(static_cast<size_t>(tiles_) * static_cast<size_t>(tile_bytes(quantize_.padded, is_half())))->as<uint8_t>();
    quantize_.channel_scale = workspace(static_cast<size_t>(table_.count) * static_cast<size_t>(request.kv_heads) * padded * sizeof(float))->as<float>();
    args_.q_codes = quantize_.rows.codes;
    args_.q_scales = quantize_.rows.scales;
    args_.tiles = quantize_.tiles;
    args_.channel_scale = quantize_.channel_scale;
    args_.running_max = is_paper();
    args_.level_bits = is_half() ? 7.f : std::log2(is_paper() ? 127.f : 255.f);
}

void AttentionOperation::plan_inspection(Stream& stream) {
    const size_t sequences = static_cast<size_t>(table_.count);
    head_maxima_ = stream.allocate(sequences * static_cast<size_t>(args_.heads + args_.kv_heads) * sizeof(uint32_t));
}

void AttentionOperation::plan_baseline(Stream& stream, const AttentionRequest& request) {
    // What code runs, not what the device is: compiled for less (from PTX, say) the kernel has no FP8 instruction and would answer with zeros.
    const int code = running_code().architecture;
    if (precision_ == Precision::kFp8 && code < 890)
        throw Failure("ERR_UNSUPPORTED", "Expected code compiled for compute capability 8.9 or higher for fp8, got code for " + std::to_string(code / 100) + "." + std::to_string(code / 10 % 10));
    baseline_.query = query_;
    baseline_.key = key_;
    baseline_.value = value_;
    baseline_.geometry = args_;
    baseline_.kind = precision_ == Precision::kFp8 ? BaselineKind::kFp8 : precision_ == Precision::kBfloat16 ? BaselineKind::kBfloat16 : BaselineKind::kFloat16;
    baseline_.flash_d = precision_ == Precision::kFlashD;
    baseline_.padded = padded_dim(std::max(request.head_dim, request.head_dim_v));
    baseline_.findings = sheet_->on_device(place_);
    const size_t bytes = place_baseline(baseline_, table_, rows_, tiles_, nullptr);
    place_baseline(baseline_, table_, rows_, tiles_, held_.emplace_back(stream.allocate(bytes))->as<uint8_t>());
}

const void* AttentionOperation::on_device(Stream& stream, const Source& source) { return source_on_device(stream, source, held_); }

Operand AttentionOperation::operand(Stream& stream, const FloatOrCodes& from, int heads, int dim) { return {on_device(stream, from.data), from.strides, from.type, heads, dim}; }

ScaleOperand AttentionOperation::scales(Stream& stream, const Source& source, const RowStrides& strides, Given what) {
    if (source.buffer) unseen_ |= static_cast<uint32_t>(what);
    return {static_cast<const float*>(on_device(stream, source)), strides};
}

// ── launch ──
void AttentionOperation::launch(cudaStream_t stream, const AbortFlag& abort) const {
    check(stream);
    quantize(stream);
    abort.check();
    attend(stream);
    restore(stream);
}

void AttentionOperation::check(cudaStream_t stream) const {
    if (is_empty()) return;
    check_given(stream);
    if (precision_ == Precision::kFloat32) inspect(stream);
}

void AttentionOperation::check_given(cudaStream_t stream) const {
    Findings* findings = sheet_->on_device(place_);
    const auto unseen = [&](Given what) { return (unseen_ & static_cast<uint32_t>(what)) != 0; };
    if (unseen(Given::kMask)) check_cuda(launch_check_mask(args_.mask, table_, args_.heads, keys_, findings, stream), "check the mask");
    const struct {
        Given what;
        const ScaleOperand& scale;
        int heads;
    } given[] = {{Given::kQueryScale, quantize_.query_scale, args_.heads},
                 {Given::kKeyScale, quantize_.key_scale, args_.kv_heads},
                 {Given::kValueScale, quantize_.value_scale, args_.kv_heads},
                 {Given::kChannelScale, quantize_.value_channel, args_.kv_heads}};
    for (const auto& [what, scale, heads] : given)
        if (unseen(what)) check_cuda(launch_check_scales(scale, what, table_, heads, value_.dim, findings, stream), "check the scales");
}

void AttentionOperation::inspect(cudaStream_t stream) const {
    Findings* findings = sheet_->on_device(place_);
    auto* maxima = head_maxima_->as<uint32_t>();
    const HeadMaxima heads{maxima, maxima + static_cast<size_t>(table_.count) * static_cast<size_t>(args_.heads)};
    check_cuda(cudaMemsetAsync(maxima, 0, head_maxima_->bytes(), stream), "clear the maxima");
    check_cuda(launch_inspect(query_, key_, value_, kLargestQuery, kLargestOperand, table_, heads, nullptr, findings, stream), "inspect the inputs");
    check_cuda(launch_judge_scores(heads, table_, args_.heads, args_.kv_heads, 1, query_.dim, args_.scale, findings, stream), "judge the scores");
}

void AttentionOperation::quantize(cudaStream_t stream) const {
    if (is_empty() || stays_float()) return;
    if (is_baseline()) return check_cuda(launch_baseline_pack(baseline_, table_, stream), "round the inputs");
    if (sorted_) return sorted_->quantize(stream);
    check_cuda(launch_quantize(quantize_, table_, stream), "quantize");
}

void AttentionOperation::attend(cudaStream_t stream) const {
    if (is_empty()) return;
    if (sorted_) return sorted_->attend(stream);
    const auto launch_forward = [&]() -> cudaError_t {
        if (stays_float()) return launch_float_flash_fwd({query_, key_, value_, args_}, precision_ == Precision::kFloat64, stream);
        if (is_baseline()) return launch_baseline_fwd(baseline_, limits_, stream);
        switch (quantize_.padded) {
            case 64: return launch_int8_flash_fwd_d64(args_, is_half(), limits_, stream);
            case 128: return launch_int8_flash_fwd_d128(args_, is_half(), limits_, stream);
            default: return launch_int8_flash_fwd_d256(args_, is_half(), limits_, stream);
        }
    };
    check_cuda(launch_forward(), "run attention");
}

void AttentionOperation::restore(cudaStream_t stream) const {
    if (is_empty() || !quantize_.smooth_k || args_.lse == nullptr) return;
    check_cuda(launch_restore_lse(query_, table_, quantize_.padded, quantize_.statistics.means, args_.kv_heads, args_.scale, args_.lse, args_.lse_strides, stream),
               "restore the log-sum-exp");
}

// ── judge ──
void AttentionOperation::judge() const {
    const Findings& found = sheet_->on_host(place_);
    if (found.bad_query) throw nonfinite("query");
    if (found.bad_key) throw nonfinite("key");
    if (found.bad_value) throw nonfinite("value");
    if (found.bad_given & static_cast<uint32_t>(Given::kMask)) throw nonfinite("attnMask", "to hold finite numbers or -Infinity");
    const std::pair<Given, const char*> scales[] = {{Given::kQueryScale, "qScale"}, {Given::kKeyScale, "kScale"}, {Given::kValueScale, "vScale"}, {Given::kChannelScale, "vChannelScale"}};
    for (const auto& [what, name] : scales)
        if (found.bad_given & static_cast<uint32_t>(what)) throw Failure("ERR_ARG_RANGE", std::string("Expected ") + name + " to hold finite scales > 0, got others");
    const bool is_float16 = precision_ == Precision::kFloat16 || precision_ == Precision::kFlashD;
    const auto too_large = [](const char* operand, const char* most, uint32_t bits) {
        throw Failure("ERR_OVERFLOW", std::string("Expected |") + operand + "| of at most " + most + ", got " + number(float_of(bits)));
    };
    if (found.large_value) too_large("value", is_half() ? "65504 for half-int8" : is_float16 ? "65504 for fp16" : "2^100", found.large_value);
    if (found.large_key) too_large("key", is_float16 ? "65504 for fp16" : "2^100", found.large_key);
    if (found.large_query) too_large("query", is_float16 ? "65504 for fp16" : "2^100", found.large_query);
    double bound;
    std::memcpy(&bound, &found.score_bound, 8);
    if (found.score_bound) throw Failure("ERR_OVERFLOW", "Expected scores of at most 2^100, got up to " + number(bound));
}

// ── run ──
AttentionAnswer run_attention(Stream& stream, const AttentionRequest& request, std::shared_ptr<FindingsSheet> sheet) {
    const cudaStream_t target = stream.handle();
    request.abort.check();
    const auto operation = std::make_shared<AttentionOperation>(stream, request, sheet);
    AttentionAnswer answer;
    request.abort.check();
    sheet->clear(target);
    const Timestamp start(target);
    operation->check(target);
    operation->quantize(target);
    const Timestamp quantized(target);
    if (request.abort.raised) stream.synchronize();  // or the signal would find everything launched already
    request.abort.check();
    operation->attend(target);
    const auto check_abort = [&] { request.abort.check(); };
    answer.forward_ms = time_each(stream, request.repeats, [&] { operation->attend(target); }, check_abort);
    answer.quantize_repeat_ms = time_each(stream, request.repeats, [&] { operation->quantize(target); }, check_abort);
    operation->restore(target);
    sheet->collect(target);
    stream.synchronize();
    operation->judge();
    answer.quantize_ms = quantized.since(start);
    answer.kernel = operation->kernel();
    answer.out_type = operation->out_type();

    const auto copy_out = [&](float* host, const std::shared_ptr<Buffer>& from) {
        if (host != nullptr && from) copy_to_host(stream, host, from->as(), from->bytes());
    };
    copy_out(request.host_out, operation->out());
    copy_out(request.host_lse, operation->lse());
    if (request.host_out != nullptr) return answer;
    answer.out = operation->out();
    answer.lse = operation->lse();
    answer.operation = operation;
    return answer;
}

std::vector<float> copy_times(Stream& stream, size_t bytes, int repeats) {
    const auto from = stream.allocate(bytes), to = stream.allocate(bytes);
    check_cuda(cudaMemsetAsync(from->as(), 1, bytes, stream.handle()), "fill a buffer");
    const auto copy = [&] { check_cuda(cudaMemcpyAsync(to->as(), from->as(), bytes, cudaMemcpyDeviceToDevice, stream.handle()), "copy within the device"); };
    return time_each(stream, repeats, copy, [] {});
}

}  // namespace intflash
