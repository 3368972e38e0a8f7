#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "float_flash_fwd.h"
#include "int8_flash_fwd.h"
#include "tile_layout.h"

namespace intflash {
namespace {

constexpr int kMaxGrid = 65535;  // CUDA's limit on blockIdx.y and z

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

}  // namespace

// ── plan ──
AttentionOperation::AttentionOperation(Stream& stream, const AttentionRequest& request, std::shared_ptr<FindingsSheet> sheet)
    : precision_(request.precision), sheet_(std::move(sheet)), place_(sheet_->take()) {
    const DeviceFacts& facts = stream.device().facts();
    limits_ = {facts.shared_bytes_per_block, facts.processors};
    lay_out_sequences(stream, request);
    out_ = stream.allocate(static_cast<size_t>(request.out_elements) * sizeof(float));
    if (request.want_lse) lse_ = stream.allocate(static_cast<size_t>(request.lse_elements) * sizeof(float));
    // A cumulative table may leave rows of the output without a sequence; nothing else writes those.
    check_cuda(cudaMemsetAsync(out_->as(), 0, out_->bytes(), stream.handle()), "clear the output");
    if (lse_) check_cuda(cudaMemsetAsync(lse_->as(), 0, lse_->bytes(), stream.handle()), "clear the log-sum-exp");
    plan_geometry(stream, request);
    query_ = operand(stream, request.query, request.heads, request.head_dim);
    key_ = operand(stream, request.key, request.kv_heads, request.head_dim);
    value_ = operand(stream, request.value, request.kv_heads, request.head_dim_v);
    if (!is_float()) plan_int8(stream, request);
}

void AttentionOperation::lay_out_sequences(Stream& stream, const AttentionRequest& request) {
    std::vector<Sequence> sequences = request.sequences;
    for (Sequence& sequence : sequences) {
        sequence.tiles = (sequence.k_len + kTileKeys - 1) / kTileKeys;
        sequence.q_row_base = rows_;
        sequence.tile_base = tiles_count_;
        rows_ += static_cast<int64_t>(sequence.q_len) * request.heads;
        tiles_count_ += static_cast<int64_t>(sequence.tiles) * request.kv_heads;
        table_.max_q_len = std::max(table_.max_q_len, sequence.q_len);
        table_.max_tiles = std::max(table_.max_tiles, sequence.tiles);
        keys_ = std::max(keys_, static_cast<int64_t>(sequence.k_len));
    }
    if (table_.max_q_len > (1 << 30) || int64_t{table_.max_tiles} * kTileKeys > (1 << 30))
        throw Failure("ERR_UNSUPPORTED", "Expected sequences of at most 2^30 tokens on CUDA");
    if (sequences.size() > static_cast<size_t>(kMaxGrid) || request.heads > kMaxGrid)
        throw Failure("ERR_UNSUPPORTED", "Expected at most 65535 sequences and heads on CUDA, got " + std::to_string(sequences.size()) + " and " +
                                             std::to_string(request.heads));
    table_.count = static_cast<int32_t>(sequences.size());
    const auto buffer = stream.allocate(sequences.size() * sizeof(Sequence));
    if (table_.count > 0)
        check_cuda(cudaMemcpyAsync(buffer->as(), sequences.data(), buffer->bytes(), cudaMemcpyHostToDevice, stream.handle()), "copy the sequence table");
    table_.sequences = buffer->as<Sequence>();
    held_.push_back(buffer);
}

void AttentionOperation::plan_geometry(Stream& stream, const AttentionRequest& request) {
    args_.sequences = table_.sequences;
    args_.out = out_->as<float>();
    args_.lse = lse_ ? lse_->as<float>() : nullptr;
    args_.out_strides = request.out_strides;
    args_.lse_strides = request.lse_strides;
    args_.mask = request.mask_strides;
    args_.mask.data = on_device(stream, request.mask);
    mask_unseen_ = request.mask.buffer && request.mask_strides.is_float;
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

void AttentionOperation::plan_int8(Stream& stream, const AttentionRequest& request) {
    padded_ = padded_dim(std::max(request.head_dim, request.head_dim_v));
    per_head_bytes_ = static_cast<size_t>(table_.count) * static_cast<size_t>(request.kv_heads) * static_cast<size_t>(padded_) * sizeof(float);
    const auto workspace = [&](size_t bytes) { return held_.emplace_back(stream.allocate(bytes)); };
    query_target_.codes = workspace(static_cast<size_t>(rows_) * static_cast<size_t>(padded_))->as<int8_t>();
    query_target_.scales = workspace(static_cast<size_t>(rows_) * sizeof(float))->as<float>();
    tiles_ = workspace(static_cast<size_t>(tiles_count_) * static_cast<size_t>(tile_bytes(padded_, is_half())))->as<uint8_t>();
    channel_scale_ = workspace(per_head_bytes_)->as<float>();
    if (query_.type == ElementType::kInt8) query_scale_ = scales(stream, request.query.scale, request.query.scale_strides, ScaleOf::kQuery);
    if (key_.type == ElementType::kInt8) key_scale_ = scales(stream, request.key.scale, request.key.scale_strides, ScaleOf::kKey);
    // A softcap is not blind to a shift of the scores, and the paper does not shift them.
    else if (request.smooth_k && request.softcap == 0.f && !is_paper()) means_ = workspace(per_head_bytes_)->as<float>();
    if (value_.type == ElementType::kInt8) {
        value_scale_ = scales(stream, request.value.scale, request.value.scale_strides, ScaleOf::kValue);
        value_channel_ = scales(stream, request.channel_scale, request.channel_strides, ScaleOf::kChannel);
        // V's channels lie next to each other; their token stride says so to the check, and the kernel does not read it.
        value_channel_.strides.token = 1;
    } else {
        maxima_ = workspace(per_head_bytes_)->as<float>();
    }
    args_.q_codes = query_target_.codes;
    args_.q_scales = query_target_.scales;
    args_.tiles = tiles_;
    args_.channel_scale = channel_scale_;
    args_.running_max = is_paper();
    args_.level_bits = is_half() ? 7.f : std::log2(is_paper() ? 127.f : 255.f);
}

const void* AttentionOperation::on_device(Stream& stream, const Source& source) {
    if (!source.present()) return nullptr;
    if (source.buffer) {
        held_.push_back(source.buffer);
        return source.buffer->as<uint8_t>() + source.offset;
    }
    const auto buffer = held_.emplace_back(stream.allocate(source.bytes));
    if (source.bytes > 0) check_cuda(cudaMemcpyAsync(buffer->as(), source.host(), source.bytes, cudaMemcpyHostToDevice, stream.handle()), "copy an input to the device");
    return buffer->as();
}

Operand AttentionOperation::operand(Stream& stream, const FloatOrCodes& from, int heads, int dim) { return {on_device(stream, from.data), from.strides, from.type, heads, dim}; }

ScaleOperand AttentionOperation::scales(Stream& stream, const Source& source, const RowStrides& strides, ScaleOf of) {
    if (source.buffer) scales_unseen_ |= static_cast<uint32_t>(of);
    return {static_cast<const float*>(on_device(stream, source)), strides};
}

// ── launch ──
void AttentionOperation::launch(cudaStream_t stream, const AbortFlag& abort) const {
    check_and_quantize(stream);
    abort.check();
    attend(stream);
    restore(stream);
}

void AttentionOperation::check_and_quantize(cudaStream_t stream) const {
    if (is_empty()) return;
    check(stream);
    if (is_float()) return;
    quantize_query(stream);
    quantize_key(stream);
    quantize_value(stream);
}

void AttentionOperation::check(cudaStream_t stream) const {
    Findings* findings = sheet_->on_device(place_);
    if (mask_unseen_) check_cuda(launch_check_mask(args_.mask, table_, args_.heads, keys_, findings, stream), "check the mask");
    const struct {
        ScaleOf of;
        const ScaleOperand& scale;
        int heads;
    } given[] = {{ScaleOf::kQuery, query_scale_, args_.heads}, {ScaleOf::kKey, key_scale_, args_.kv_heads}, {ScaleOf::kValue, value_scale_, args_.kv_heads},
                 {ScaleOf::kChannel, value_channel_, args_.kv_heads}};
    for (const auto& [of, scale, heads] : given)
        if (scales_unseen_ & static_cast<uint32_t>(of)) check_cuda(launch_check_scales(scale, of, table_, heads, value_.dim, findings, stream), "check the scales");
}

void AttentionOperation::quantize_query(cudaStream_t stream) const {
    Findings* findings = sheet_->on_device(place_);
    const float levels = precision_ == Precision::kInt4Qk ? 7.f : 127.f;
    if (query_.type == ElementType::kInt8) check_cuda(launch_pack_query(query_, query_scale_, table_, padded_, query_target_, findings, stream), "pack the query");
    else check_cuda(launch_quantize_query(query_, table_, padded_, levels, query_target_, findings, stream), "quantize the query");
}

void AttentionOperation::quantize_key(cudaStream_t stream) const {
    Findings* findings = sheet_->on_device(place_);
    if (key_.type == ElementType::kInt8) {
        check_cuda(launch_pack_key(key_, key_scale_, table_, padded_, tiles_, findings, stream), "pack the key");
        return;
    }
    const float levels = precision_ == Precision::kInt4Qk ? 7.f : 127.f;
    if (means_ != nullptr) check_cuda(launch_key_means(key_, table_, padded_, means_, stream), "average the key");
    check_cuda(launch_quantize_key(key_, table_, padded_, levels, means_, is_half(), tiles_, findings, stream), "quantize the key");
}

void AttentionOperation::quantize_value(cudaStream_t stream) const {
    Findings* findings = sheet_->on_device(place_);
    if (value_.type == ElementType::kInt8) {
        check_cuda(launch_pack_value(value_, value_scale_, value_channel_, table_, padded_, tiles_, channel_scale_, stream), "pack the value");
        return;
    }
    check_cuda(cudaMemsetAsync(maxima_, 0, per_head_bytes_, stream), "clear the maxima");
    check_cuda(launch_value_maxima(value_, table_, padded_, maxima_, findings, stream), "find the value's maxima");
    const ValueMode mode = is_half() ? ValueMode::kHalf : is_paper() ? ValueMode::kPerTensor : ValueMode::kTokenLevel;
    check_cuda(launch_quantize_value(value_, table_, mode, padded_, maxima_, tiles_, channel_scale_, stream), "quantize the value");
}

void AttentionOperation::attend(cudaStream_t stream) const {
    if (is_empty()) return;
    const auto launch_forward = [&]() -> cudaError_t {
        if (is_float()) return launch_float_flash_fwd({query_, key_, value_, args_}, precision_ == Precision::kFloat64, stream);
        switch (padded_) {
            case 64: return launch_int8_flash_fwd_d64(args_, is_half(), limits_, stream);
            case 128: return launch_int8_flash_fwd_d128(args_, is_half(), limits_, stream);
            default: return launch_int8_flash_fwd_d256(args_, is_half(), limits_, stream);
        }
    };
    check_cuda(launch_forward(), "run attention");
}

void AttentionOperation::restore(cudaStream_t stream) const {
    if (is_empty() || means_ == nullptr || args_.lse == nullptr) return;
    check_cuda(launch_restore_lse(query_, table_, padded_, means_, args_.kv_heads, args_.scale, args_.lse, args_.lse_strides, stream), "restore the log-sum-exp");
}

// ── judge ──
void AttentionOperation::judge() const {
    const Findings& found = sheet_->on_host(place_);
    const auto nonfinite = [](const char* operand, const char* what) {
        Failure failure("ERR_NONFINITE", std::string("Expected ") + operand + what);
        failure.operand = operand;
        throw failure;
    };
    if (found.bad_query) nonfinite("query", " to be finite, got NaN or Infinity");
    if (found.bad_key) nonfinite("key", " to be finite, got NaN or Infinity");
    if (found.bad_value) nonfinite("value", " to be finite, got NaN or Infinity");
    if (found.bad_mask) nonfinite("attnMask", " to hold finite numbers or -Infinity, got NaN or Infinity");
    for (const auto& [of, name] : {std::pair{ScaleOf::kQuery, "qScale"}, {ScaleOf::kKey, "kScale"}, {ScaleOf::kValue, "vScale"}, {ScaleOf::kChannel, "vChannelScale"}})
        if (found.bad_scale & static_cast<uint32_t>(of)) throw Failure("ERR_ARG_RANGE", std::string("Expected ") + name + " to hold finite scales > 0, got others");
    if (!is_float()) judge_scores(found);
}

void AttentionOperation::judge_scores(const Findings& found) const {
    if (is_half() && found.value_beyond_float16) throw Failure("ERR_OVERFLOW", "Expected |value| up to 65504 for half-int8, got more");
    float q_scale, k_scale;
    std::memcpy(&q_scale, &found.max_query_scale, 4);
    std::memcpy(&k_scale, &found.max_key_scale, 4);
    const double bound = 127. * 127. * query_.dim * q_scale * k_scale * args_.scale * 1.4426950408889634;
    if (bound > std::ldexp(1., 100)) throw Failure("ERR_OVERFLOW", "Expected scores below 2^100, got a bound of " + std::to_string(std::log2(bound)) + " bits");
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
    operation->check_and_quantize(target);
    const Timestamp quantized(target);
    request.abort.check();
    operation->attend(target);
    for (int i = 0; i < request.repeats; ++i) {
        const Timestamp began(target);
        operation->attend(target);
        const Timestamp ended(target);
        stream.synchronize();
        request.abort.check();
        answer.forward_ms.push_back(ended.since(began));
    }
    operation->restore(target);
    sheet->collect(target);
    stream.synchronize();
    operation->judge();
    answer.quantize_ms = quantized.since(start);

    const auto copy_out = [&](float* host, const std::shared_ptr<Buffer>& from) {
        if (host == nullptr || !from || from->bytes() == 0) return;
        check_cuda(cudaMemcpyAsync(host, from->as(), from->bytes(), cudaMemcpyDeviceToHost, target), "copy the output to the host");
    };
    copy_out(request.host_out, operation->out());
    copy_out(request.host_lse, operation->lse());
    if (request.host_out != nullptr) {
        stream.synchronize();
        return answer;
    }
    answer.out = operation->out();
    answer.lse = operation->lse();
    answer.operation = operation;
    return answer;
}

}  // namespace intflash
