#include "attention.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "failure.h"
#include "float_flash_fwd.h"
#include "int8_flash_fwd.h"
#include "quantize.h"
#include "tile_layout.h"

namespace intflash {
namespace {

constexpr int kMaxGrid = 65535;  // CUDA's limit on blockIdx.y and z

/** A timestamp in the stream. */
class Event {
public:
    Event() { check_cuda(cudaEventCreate(&event_), "create an event"); }
    ~Event() { cudaEventDestroy(event_); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    void record(cudaStream_t stream) { check_cuda(cudaEventRecord(event_, stream), "record an event"); }
    float since(const Event& start) const {
        float ms = 0;
        check_cuda(cudaEventElapsedTime(&ms, start.event_, event_), "read an event");
        return ms;
    }

private:
    cudaEvent_t event_ = nullptr;
};

class Run {
public:
    Run(Device& device, AttentionRequest& request) : device_(device), request_(request), stream_(device.stream()) {}

    AttentionAnswer answer() {
        between_kernels();
        lay_out_sequences();
        AttentionAnswer answer;
        answer.out = device_.allocate(request_.out_elements * sizeof(float));
        if (request_.want_lse) answer.lse = device_.allocate(request_.lse_elements * sizeof(float));
        // A cumulative table may leave rows of the output without a sequence; nothing else writes those.
        check_cuda(cudaMemsetAsync(answer.out->as(), 0, answer.out->bytes(), stream_), "clear the output");
        ForwardArgs args = geometry(answer);
        Operand query = operand(request_.query, request_.heads, request_.head_dim);
        Operand key = operand(request_.key, request_.kv_heads, request_.head_dim);
        Operand value = operand(request_.value, request_.kv_heads, request_.head_dim_v);
        between_kernels();
        if (request_.precision == Precision::kFloat32 || request_.precision == Precision::kFloat64) {
            forward_float(args, query, key, value, answer);
        } else {
            forward_int8(args, query, key, value, answer);
        }
        between_kernels();
        deliver(answer);
        return answer;
    }

private:
    void between_kernels() const {
        if (request_.aborted && request_.aborted->load()) throw Aborted{};
    }

    void lay_out_sequences() {
        int64_t rows = 0, tiles = 0;
        for (Sequence& sequence : request_.sequences) {
            sequence.tiles = (sequence.k_len + kTileKeys - 1) / kTileKeys;
            sequence.q_row_base = rows;
            sequence.tile_base = tiles;
            rows += static_cast<int64_t>(sequence.q_len) * request_.heads;
            tiles += static_cast<int64_t>(sequence.tiles) * request_.kv_heads;
            table_.max_q_len = std::max(table_.max_q_len, sequence.q_len);
            table_.max_tiles = std::max(table_.max_tiles, sequence.tiles);
        }
        rows_ = rows;
        tiles_ = tiles;
        if (table_.max_q_len > (1 << 30) || int64_t{table_.max_tiles} * kTileKeys > (1 << 30))
            throw Failure("ERR_UNSUPPORTED", "Expected sequences of at most 2^30 tokens on CUDA");
        if (request_.sequences.size() > static_cast<size_t>(kMaxGrid) || request_.heads > kMaxGrid)
            throw Failure("ERR_UNSUPPORTED", "Expected at most 65535 sequences and heads on CUDA, got " + std::to_string(request_.sequences.size()) + " and " +
                                                 std::to_string(request_.heads));
        table_.count = static_cast<int32_t>(request_.sequences.size());
        sequences_ = device_.allocate(request_.sequences.size() * sizeof(Sequence));
        if (table_.count > 0)
            check_cuda(cudaMemcpyAsync(sequences_->as(), request_.sequences.data(), sequences_->bytes(), cudaMemcpyHostToDevice, stream_), "copy the sequence table");
        table_.sequences = sequences_->as<Sequence>();
    }

    const void* on_device(const Source& source) {
        if (!source.present()) return nullptr;
        if (source.buffer) return source.buffer->as<uint8_t>() + source.offset;
        auto buffer = device_.allocate(source.bytes);
        const void* host = source.copy ? source.copy->data() : source.borrowed;
        if (source.bytes > 0) check_cuda(cudaMemcpyAsync(buffer->as(), host, source.bytes, cudaMemcpyHostToDevice, stream_), "copy an input to the device");
        held_.push_back(buffer);
        return buffer->as();
    }

    Operand operand(const FloatOrCodes& from, int heads, int dim) { return {on_device(from.data), from.strides, from.type, heads, dim}; }

    ForwardArgs geometry(const AttentionAnswer& answer) {
        ForwardArgs args{};
        args.sequences = table_.sequences;
        args.out = answer.out->as<float>();
        args.lse = answer.lse ? answer.lse->as<float>() : nullptr;
        args.out_strides = request_.out_strides;
        args.lse_strides = request_.lse_strides;
        args.mask = request_.mask_strides;
        args.mask.data = on_device(request_.mask);
        args.window_left = request_.window_left;
        args.window_right = request_.window_right;
        args.sequence_count = table_.count;
        args.heads = request_.heads;
        args.kv_heads = request_.kv_heads;
        args.head_dim_v = request_.head_dim_v;
        args.max_q_len = table_.max_q_len;
        args.bottom_right = request_.bottom_right;
        args.scale = request_.scale;
        args.softcap = request_.softcap;
        return args;
    }

    bool nothing() const { return table_.count == 0 || table_.max_q_len == 0; }

    void forward_float(const ForwardArgs& args, const Operand& query, const Operand& key, const Operand& value, AttentionAnswer& answer) {
        const bool in_float64 = request_.precision == Precision::kFloat64;
        const auto launch = [&] { return launch_float_flash_fwd({query, key, value, args}, in_float64, stream_); };
        if (in_float64 || nothing()) return time_forward(answer, launch);
        const auto findings_buffer = clear_findings();
        const size_t heads = static_cast<size_t>(table_.count) * request_.heads, kv_heads = static_cast<size_t>(table_.count) * request_.kv_heads;
        const auto maxima = device_.allocate((heads + kv_heads) * sizeof(uint32_t));
        check_cuda(cudaMemsetAsync(maxima->as(), 0, maxima->bytes(), stream_), "clear the maxima");
        const HeadMaxima head_maxima{maxima->as<uint32_t>(), maxima->as<uint32_t>() + heads};
        Findings* findings = findings_buffer->as<Findings>();
        check_cuda(launch_inspect(query, key, value, kLargestOperand, table_, head_maxima, findings, stream_), "inspect the inputs");
        check_cuda(launch_judge_scores(head_maxima, table_, request_.heads, request_.kv_heads, 1, request_.head_dim, request_.scale, findings, stream_), "judge the scores");
        between_kernels();
        time_forward(answer, launch);
        judge(findings);
    }

    std::shared_ptr<Buffer> clear_findings() {
        auto buffer = device_.allocate(sizeof(Findings));
        check_cuda(cudaMemsetAsync(buffer->as(), 0, sizeof(Findings), stream_), "clear the findings");
        return buffer;
    }

    void forward_int8(ForwardArgs& args, const Operand& query, const Operand& key, const Operand& value, AttentionAnswer& answer) {
        if (nothing()) return;
        const bool half = request_.precision == Precision::kHalfInt8, paper = request_.precision == Precision::kPaperInt8;
        const int padded = padded_dim(std::max(request_.head_dim, request_.head_dim_v));
        const size_t per_head = static_cast<size_t>(table_.count) * request_.kv_heads * padded * sizeof(float);
        const auto q_codes = device_.allocate(static_cast<size_t>(rows_) * padded), q_scales = device_.allocate(static_cast<size_t>(rows_) * sizeof(float));
        const auto tiles = device_.allocate(static_cast<size_t>(tiles_) * tile_bytes(padded, half)), channel_scale = device_.allocate(per_head);
        const auto findings = clear_findings();
        QuantizeRequest quantize{};
        quantize.query = query;
        quantize.key = key;
        quantize.value = value;
        if (!is_float(query)) quantize.query_scale = scales(request_.query);
        if (!is_float(key)) quantize.key_scale = scales(request_.key);
        if (!is_float(value)) {
            quantize.value_scale = scales(request_.value);
            quantize.value_channel = {static_cast<const float*>(on_device(request_.channel_scale)), request_.channel_strides};
        }
        quantize.mode = half ? ValueMode::kHalf : paper ? ValueMode::kPerTensor : ValueMode::kTokenLevel;
        quantize.padded = padded;
        quantize.levels = request_.precision == Precision::kInt4Qk ? 7.f : 127.f;
        // A softcap is not blind to a shift of the scores, and the paper does not shift them.
        quantize.smooth_k = is_float(key) && request_.smooth_k && request_.softcap == 0.f && !paper;
        quantize.scale = request_.scale;
        quantize.rows = {q_codes->as<int8_t>(), q_scales->as<float>()};
        quantize.tiles = tiles->as<uint8_t>();
        quantize.channel_scale = channel_scale->as<float>();
        quantize.findings = findings->as<Findings>();
        const auto workspace = device_.allocate(place_workspace(quantize, table_, tiles_, nullptr));
        place_workspace(quantize, table_, tiles_, workspace->as<uint8_t>());
        const auto quantize_once = [&] { return launch_quantize(quantize, table_, stream_); };
        Event start, end;
        start.record(stream_);
        check_cuda(quantize_once(), "quantize");
        end.record(stream_);
        between_kernels();
        args.q_codes = quantize.rows.codes;
        args.q_scales = quantize.rows.scales;
        args.tiles = quantize.tiles;
        args.channel_scale = quantize.channel_scale;
        args.running_max = paper;
        args.level_bits = half ? 7.f : std::log2(paper ? 127.f : 255.f);
        const LaunchLimits limits{device_.facts().shared_bytes_per_block, device_.facts().processors};
        time_forward(answer, [&] {
            switch (padded) {
                case 64: return launch_int8_flash_fwd_d64(args, half, limits, stream_);
                case 128: return launch_int8_flash_fwd_d128(args, half, limits, stream_);
                default: return launch_int8_flash_fwd_d256(args, half, limits, stream_);
            }
        });
        for (int i = 0; i < request_.repeats; ++i) answer.quantize_repeat_ms.push_back(time_once(quantize_once, "quantize"));
        if (quantize.smooth_k && request_.want_lse)
            check_cuda(launch_restore_lse(query, table_, padded, quantize.statistics.means, request_.kv_heads, request_.scale, args.lse, args.lse_strides, stream_),
                       "restore the log-sum-exp");
        judge(quantize.findings);
        answer.quantize_ms = end.since(start);
    }

    ScaleOperand scales(const FloatOrCodes& operand) { return {static_cast<const float*>(on_device(operand.scale)), operand.scale_strides}; }

    /** Waits for what was launched, then refuses what docs/arithmetic.md refuses. */
    void judge(const Findings* findings) {
        Findings found{};
        check_cuda(cudaMemcpyAsync(&found, findings, sizeof found, cudaMemcpyDeviceToHost, stream_), "read the findings");
        device_.synchronize();
        const auto nonfinite = [](const char* operand) {
            Failure failure("ERR_NONFINITE", std::string("Expected ") + operand + " to be finite, got NaN or Infinity");
            failure.operand = operand;
            throw failure;
        };
        if (found.bad_query) nonfinite("query");
        if (found.bad_key) nonfinite("key");
        if (found.bad_value) nonfinite("value");
        const auto number = [](double value) {
            char text[32];
            std::snprintf(text, sizeof text, "%g", value);
            return std::string(text);
        };
        const auto magnitude = [&](uint32_t bits) {
            float value;
            std::memcpy(&value, &bits, 4);
            return number(value);
        };
        const bool half = request_.precision == Precision::kHalfInt8;
        if (found.large_value)
            throw Failure("ERR_OVERFLOW", std::string("Expected |value| of at most ") + (half ? "65504 for half-int8" : "2^100") + ", got " + magnitude(found.large_value));
        if (found.large_key) throw Failure("ERR_OVERFLOW", "Expected |key| of at most 2^100, got " + magnitude(found.large_key));
        double bound;
        std::memcpy(&bound, &found.score_bound, 8);
        if (found.score_bound) throw Failure("ERR_OVERFLOW", "Expected scores of at most 2^100, got up to " + number(bound));
    }

    /** Milliseconds of one launch; waits for it. */
    template <class Launch> float time_once(const Launch& launch, const char* doing) {
        Event start, end;
        start.record(stream_);
        check_cuda(launch(), doing);
        end.record(stream_);
        device_.synchronize();
        return end.since(start);
    }

    template <class Launch> void time_forward(AttentionAnswer& answer, const Launch& launch) {
        check_cuda(launch(), "run attention");
        for (int i = 0; i < request_.repeats; ++i) answer.forward_ms.push_back(time_once(launch, "run attention"));
    }

    void deliver(AttentionAnswer& answer) {
        const auto copy_out = [&](float* host, std::shared_ptr<Buffer>& from) {
            if (host == nullptr || !from) return;
            if (from->bytes() > 0) check_cuda(cudaMemcpyAsync(host, from->as(), from->bytes(), cudaMemcpyDeviceToHost, stream_), "copy the output to the host");
        };
        copy_out(request_.host_out, answer.out);
        copy_out(request_.host_lse, answer.lse);
        device_.synchronize();
        if (request_.host_out != nullptr) answer.out.reset(), answer.lse.reset();
    }

    Device& device_;
    AttentionRequest& request_;
    cudaStream_t stream_;
    SequenceTable table_{};
    int64_t rows_ = 0, tiles_ = 0;
    std::shared_ptr<Buffer> sequences_;
    std::vector<std::shared_ptr<Buffer>> held_;
};

}  // namespace

std::vector<float> copy_times(Device& device, size_t bytes, int repeats) {
    const auto from = device.allocate(bytes), to = device.allocate(bytes);
    check_cuda(cudaMemsetAsync(from->as(), 1, bytes, device.stream()), "fill a buffer");
    std::vector<float> times;
    for (int i = 0; i < repeats; ++i) {
        Event start, end;
        start.record(device.stream());
        check_cuda(cudaMemcpyAsync(to->as(), from->as(), bytes, cudaMemcpyDeviceToDevice, device.stream()), "copy within the device");
        end.record(device.stream());
        device.synchronize();
        times.push_back(end.since(start));
    }
    return times;
}

AttentionAnswer run_attention(Device& device, AttentionRequest& request) { return Run(device, request).answer(); }

}  // namespace intflash
