#include "linear_layer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "arithmetic.h"
#include "scratch.h"
#include "thread_pool.h"

namespace int_flash {
namespace {

thread_local ThreadMemory workspace;  // prepared inputs

constexpr int64_t kSwigluTokens = 32;  // whose gate and up projection a task holds before they become one

// Weights that were trained in bfloat16 are kept so: half the memory to read, and the same numbers.
bool are_bfloat16(const float* weights, size_t count) {
    uint32_t low_bits = 0;
    for (size_t i = 0; i < count; i++) low_bits |= bits_of(weights[i]);
    return (low_bits & 0xffffu) == 0;
}

uint16_t stored(float weight, uint16_t) { return static_cast<uint16_t>(bits_of(weight) >> 16); }
float stored(float weight, float) { return weight; }

// As kFloatRows has it; zeros past the last row and column.
template <class Weight>
void interleave_floats(const float* weights, int rows, int cols, Weight* out) {
    const int64_t padded = round_up(cols, kFloatColumns);
    std::memset(out, 0, static_cast<size_t>(round_up(rows, kFloatRows) * padded) * sizeof(Weight));
    for (int64_t r = 0; r < rows; r++) {
        const float* row = weights + r * cols;
        Weight* place = out + r / kFloatRows * kFloatRows * padded + r % kFloatRows * kFloatColumns;
        for (int64_t c = 0; c < cols; c++) place[c / kFloatColumns * kFloatColumns * kFloatRows + c % kFloatColumns] = stored(row[c], Weight{});
    }
}

bool report_nonfinite(const float* input, int64_t count, Failure* failure) {
    for (int64_t i = 0; i < count; i++) {
        if (std::isfinite(input[i])) continue;
        const char* what = std::isnan(input[i]) ? "NaN" : input[i] > 0 ? "Infinity" : "-Infinity";
        return failure->set("ERR_NONFINITE", "Expected input to hold finite numbers, got %s at element %lld", what, static_cast<long long>(i));
    }
    return failure->set("ERR_NONFINITE", "Expected the norm of the input to be finite, got NaN or Infinity");
}

}  // namespace

bool LinearLayer::create(const KernelTable* kernels, int threads, const LinearSource& source, LiveBytes* live, Failure* failure) {
    kernels_ = kernels;
    threads_ = threads;
    rows_ = source.rows;
    cols_ = source.cols;
    is_int8_ = source.codes != nullptr;
    is_int4_ = source.nibbles != nullptr;
    group_ = is_int4_ ? source.group : is_int8_ ? cols_ : 0;
    const size_t padded_cols = static_cast<size_t>(round_up(cols_, kFloatColumns)), count = static_cast<size_t>(rows_);
    const auto float_rows = static_cast<size_t>(round_up(rows_, kFloatRows));
    bfloat16_ = source.floats && are_bfloat16(source.floats, count * static_cast<size_t>(cols_));
    const int step = kernels->linear_row_step;
    const size_t int4_scales = is_int4_ ? static_cast<size_t>(round_up(rows_, step)) * static_cast<size_t>(cols_ / group_) : 0;
    weight_bytes_ = is_int8_   ? kernels->linear_int8_bytes(rows_, cols_)
                    : is_int4_ ? kernels->linear_int4_bytes(rows_, cols_)
                               : float_rows * padded_cols * (bfloat16_ ? sizeof(uint16_t) : sizeof(float));
    const auto take = [&](Arena arena) {
        weights_ = arena.take<char>(weight_bytes_);
        if (is_int8_) scales_ = arena.take<float>(count);
        if (is_int4_) scales_ = arena.take<float>(int4_scales);
        bias_ = source.bias ? arena.take<float>(count) : nullptr;
        return arena.used();
    };
    const size_t bytes = take(Arena(nullptr));
    if (!memory_.allocate(bytes, live)) {
        failure->bytes = static_cast<double>(bytes);
        return failure->set("ERR_OOM", "Expected %zu bytes of memory for the weights, got none", bytes);
    }
    take(Arena(memory_.as<char>()));
    if (is_int8_) {
        kernels->pack_linear_int8(source.codes, rows_, cols_, weights_);
        std::memcpy(scales_, source.scales, count * 4);
    } else if (is_int4_) {
        kernels->pack_linear_int4(source.nibbles, rows_, cols_, weights_);
        const int groups = cols_ / group_;
        for (size_t i = 0; i < int4_scales; i++) {
            const int64_t block = static_cast<int64_t>(i) / (step * groups), g = static_cast<int64_t>(i) / step % groups, row = block * step + static_cast<int64_t>(i) % step;
            scales_[i] = row < rows_ ? source.scales[row * groups + g] : 0.0f;
        }
    } else {
        if (bfloat16_) {
            interleave_floats(source.floats, rows_, cols_, static_cast<uint16_t*>(weights_));
        } else {
            interleave_floats(source.floats, rows_, cols_, static_cast<float*>(weights_));
        }
    }
    if (source.bias) std::memcpy(bias_, source.bias, count * 4);
    return true;
}

void LinearLayer::dispose() {
    for (int run = 0; run < Reading::kRuns; run++) reading_.set(run, nullptr, 0);
    memory_.release();
    disposed_ = true;
}

bool LinearLayer::forward(const float* input, int64_t tokens, float* out, const LinearSteps& steps, Failure* failure) const {
    if (tokens == 0) return true;
    const bool coded = group_ > 0;
    const int groups = coded ? cols_ / group_ : 0;
    const int padded = static_cast<int>(round_up(cols_, coded ? 64 : 16)) + (is_int4_ ? 64 : 0);  // preparing a group writes whole 64s
    const bool direct = !coded && padded == cols_ && !steps.norm_gain;
    int words = coded ? padded / kernels_->granule : padded;
    if (coded && words % 256 == 0) words += 16;  // else many rows at one column lie in one set of the fastest cache
    const auto count = static_cast<size_t>(tokens);
    const double macs = static_cast<double>(tokens) * rows_ * cols_;
    constexpr double kFloatMacsAlone = 150e3;  // as macs_alone, of floats
    const int threads = macs < (coded ? kernels_->macs_alone : kFloatMacsAlone) ? 1 : threads_;
    const int step = kernels_->linear_row_step, width = steps.swiglu ? rows_ / 2 : rows_;
    // Rows a task takes: small enough to share out evenly and to stay in L2 while the tokens pass.
    int chunk = std::max(step, width / (threads * 4) / step * step);
    chunk = std::min(chunk, std::max(step, (steps.swiglu ? 128 << 10 : 256 << 10) / std::max(1, cols_) / step * step));
    const int tasks = (width + chunk - 1) / chunk;
    // A task of SwiGLU holds, of some tokens at a time, its rows of the gate and those of the up projection, which begin at a multiple of `step`.
    const ptrdiff_t held = 2 * chunk + step;
    const int64_t batch = std::min<int64_t>(tokens, kSwigluTokens);
    struct Places {
        uint32_t* prepared;
        float *input_scale, *normed, *gate_up;
        int32_t* starts;
    };
    const auto places_in = [&](Arena arena, size_t* used) {
        Places p;
        p.prepared = arena.take<uint32_t>(direct ? 0 : count * static_cast<size_t>(words));
        p.input_scale = arena.take<float>(count * static_cast<size_t>(groups));
        p.starts = arena.take<int32_t>(count * static_cast<size_t>(groups));
        p.normed = arena.take<float>(coded && steps.norm_gain ? count * static_cast<size_t>(cols_) : 0);
        p.gate_up = arena.take<float>(steps.swiglu ? static_cast<size_t>(tasks * batch * held) : 0);
        *used = arena.used();
        return p;
    };
    size_t bytes = 0;
    places_in(Arena(nullptr), &bytes);
    if (!thread_scratch() || !workspace.reserve(bytes)) {
        failure->bytes = static_cast<double>(bytes);
        return failure->set("ERR_OOM", "Expected %zu bytes of memory for the input, got none", bytes);
    }
    const Places p = places_in(Arena(workspace.as<char>()), &bytes);
    std::atomic<bool> nonfinite{false};
    auto prepare = [&](int64_t t) {
        const float* row = input + t * cols_;
        uint32_t* prepared = p.prepared + static_cast<size_t>(t) * static_cast<size_t>(words);
        if (!coded) {
            float* copy = reinterpret_cast<float*>(prepared);
            if (steps.norm_gain) {
                kernels_->rms_norm_row(row, steps.norm_gain, steps.epsilon, cols_, copy);
            } else {
                std::memcpy(copy, row, static_cast<size_t>(cols_) * 4);
            }
            std::fill(copy + cols_, copy + padded, 0.0f);
            return;
        }
        if (steps.norm_gain) {
            float* normed = p.normed + t * cols_;
            kernels_->rms_norm_row(row, steps.norm_gain, steps.epsilon, cols_, normed);
            row = normed;
        }
        const int group_words = is_int4_ ? group_ / kernels_->granule : 0;
        for (int g = 0; g < groups; g++) {
            uint32_t bits = 0;
            uint32_t* place = prepared + g * group_words;
            kernels_->prepare_int8_row(row + g * group_, group_, place, p.input_scale + t * groups + g, &bits, nullptr);
            if (bits >= kInfinityBits) nonfinite = true;
            p.starts[t * groups + g] = kernels_->score_start(place, group_);
        }
    };
    if (!direct) parallel_for(tokens >= 16 ? threads : 1, tokens, prepare);
    if (nonfinite) return report_nonfinite(input, tokens * cols_, failure);
    // y of some tokens and rows, to out[token][row - first].
    auto multiply = [&](Scratch* own, int64_t token, int64_t n, int first, int last, float* to, ptrdiff_t stride) {
        LinearArgs args{};
        args.rows = rows_;
        args.cols = cols_;
        args.weights = weights_;
        args.scales = scales_;
        args.bias = bias_;
        args.input = direct ? static_cast<const void*>(input + token * cols_) : p.prepared + token * words;
        args.input_words = words;
        args.input_scale = p.input_scale + token * groups;
        args.group = group_;
        args.starts = p.starts + token * groups;
        args.bfloat16 = bfloat16_;
        args.accumulate = steps.accumulate;
        args.tokens = static_cast<int>(n);
        args.out = to;
        args.out_stride = static_cast<int>(stride);
        args.first_row = first;
        args.last_row = last;
        if (is_int8_) {
            kernels_->linear_int8(args, own);
        } else if (is_int4_) {
            kernels_->linear_int4(args, own);
        } else {
            kernels_->linear_float(args, own);
        }
    };
    std::atomic<bool> out_of_memory{false};
    auto compute = [&](int64_t task) {
        Scratch* own = thread_scratch();
        if (!own) {
            out_of_memory = true;
            return;
        }
        const int first = static_cast<int>(task) * chunk, last = std::min(width, first + chunk);
        if (!steps.swiglu) return multiply(own, 0, tokens, first, last, out + first, rows_);
        float* gate = p.gate_up + task * batch * held;
        const int from = (width + first) / step * step;
        float* up = gate + chunk;
        for (int64_t token = 0; token < tokens; token += batch) {
            const int64_t n = std::min(batch, tokens - token);
            multiply(own, token, n, first, last, gate, held);
            multiply(own, token, n, from, width + last, up, held);
            for (int64_t t = 0; t < n; t++)
                kernels_->swiglu_row(gate + t * held, up + t * held + (width + first - from), last - first, out + (token + t) * width + first);
        }
    };
    constexpr int64_t kFewTokens = 8;  // with more, reading the weights is not what takes long
    const bool few = tokens <= kFewTokens;
    if (few) {
        const size_t first = weight_bytes_ / (steps.swiglu ? 2 : 1);
        reading_.set(0, weights_, first);
        reading_.set(1, static_cast<const char*>(weights_) + first, weight_bytes_ - first);
    }
    parallel_for(threads, tasks, compute, few ? &reading_ : nullptr);
    if (out_of_memory) return failure->set("ERR_OOM", "Expected %zu bytes of scratch memory a thread, got none", sizeof(Scratch));
    return true;
}

}  // namespace int_flash
