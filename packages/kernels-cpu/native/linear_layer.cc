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

// Prepared inputs of the calling thread, kept between calls: a decode step makes hundreds of them.
struct Workspace {
    OwnedMemory memory;
    LiveBytes bytes{0};  // of no backend's objects
};
thread_local Workspace workspace;

// Weights that were trained in bfloat16 are kept so: half the memory to read, and the same numbers.
bool are_bfloat16(const float* weights, size_t count) {
    uint32_t low_bits = 0;
    for (size_t i = 0; i < count; i++) low_bits |= bits_of(weights[i]);
    return (low_bits & 0xffffu) == 0;
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

bool LinearLayer::create(const KernelTable* kernels, int threads, int rows, int cols, const int8_t* codes, const float* scales, const float* weights,
                         const float* bias, LiveBytes* live, Failure* failure) {
    kernels_ = kernels;
    threads_ = threads;
    rows_ = rows;
    cols_ = cols;
    is_int8_ = codes != nullptr;
    bfloat16_ = !is_int8_ && are_bfloat16(weights, static_cast<size_t>(rows) * static_cast<size_t>(cols));
    const size_t padded_cols = static_cast<size_t>(round_up(cols, 16)), count = static_cast<size_t>(rows);
    const auto take = [&](Arena arena) {
        if (is_int8_) {
            weights_ = arena.take<char>(kernels->linear_int8_bytes(rows, cols));
            scales_ = arena.take<float>(count);
        } else if (bfloat16_) {
            weights_ = arena.take<uint16_t>(count * padded_cols);
        } else {
            weights_ = arena.take<float>(count * padded_cols);
        }
        bias_ = bias ? arena.take<float>(count) : nullptr;
        return arena.used();
    };
    const size_t bytes = take(Arena(nullptr));
    if (!memory_.allocate(bytes, live)) {
        failure->bytes = static_cast<double>(bytes);
        return failure->set("ERR_OOM", "Expected %zu bytes of memory for the weights, got none", bytes);
    }
    take(Arena(memory_.as<char>()));
    if (is_int8_) {
        kernels->pack_linear_int8(codes, rows, cols, weights_);
        std::memcpy(scales_, scales, count * 4);
    } else {
        const size_t width = static_cast<size_t>(cols);
        std::memset(weights_, 0, count * padded_cols * (bfloat16_ ? 2 : 4));
        for (size_t r = 0; r < count; r++) {
            const float* row = weights + r * width;
            if (bfloat16_) {
                uint16_t* out = static_cast<uint16_t*>(weights_) + r * padded_cols;
                for (size_t c = 0; c < width; c++) out[c] = static_cast<uint16_t>(bits_of(row[c]) >> 16);
            } else {
                std::memcpy(static_cast<float*>(weights_) + r * padded_cols, row, width * 4);
            }
        }
    }
    if (bias) std::memcpy(bias_, bias, count * 4);
    return true;
}

void LinearLayer::dispose() {
    memory_.release();
    disposed_ = true;
}

bool LinearLayer::forward(const float* input, int64_t tokens, float* out, const LinearSteps& steps, Failure* failure) const {
    if (tokens == 0) return true;
    const int padded = static_cast<int>(round_up(cols_, is_int8_ ? 64 : 16));
    const bool direct = !is_int8_ && padded == cols_ && !steps.norm_gain;
    const int words = is_int8_ ? padded / kernels_->granule : padded;
    const auto count = static_cast<size_t>(tokens);
    struct Places {
        uint32_t* prepared;
        float *input_scale, *normed, *wide;
    };
    const auto places_in = [&](Arena arena, size_t* used) {
        Places p;
        p.prepared = arena.take<uint32_t>(direct ? 0 : count * static_cast<size_t>(words));
        p.input_scale = arena.take<float>(count);
        p.normed = arena.take<float>(is_int8_ && steps.norm_gain ? count * static_cast<size_t>(cols_) : 0);
        p.wide = arena.take<float>(steps.swiglu ? count * static_cast<size_t>(rows_) : 0);
        *used = arena.used();
        return p;
    };
    size_t bytes = 0;
    places_in(Arena(nullptr), &bytes);
    if (!thread_scratch() || (workspace.memory.bytes() < bytes && !workspace.memory.allocate(bytes + bytes / 2, &workspace.bytes))) {
        failure->bytes = static_cast<double>(bytes);
        return failure->set("ERR_OOM", "Expected %zu bytes of memory for the input, got none", bytes);
    }
    const Places p = places_in(Arena(workspace.memory.as<char>()), &bytes);
    const double macs = static_cast<double>(tokens) * rows_ * cols_;
    // Waking a helper takes about as long as these many multiply-adds on one core.
    const int threads = macs < (is_int8_ ? 500e3 : 150e3) ? 1 : threads_;
    std::atomic<bool> nonfinite{false};
    auto prepare = [&](int64_t t) {
        const float* row = input + t * cols_;
        uint32_t* prepared = p.prepared + static_cast<size_t>(t) * static_cast<size_t>(words);
        if (!is_int8_) {
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
        uint32_t bits = 0;
        kernels_->prepare_int8_row(row, cols_, prepared, p.input_scale + t, &bits, nullptr);
        if (bits >= kInfinityBits) nonfinite = true;
    };
    if (!direct) parallel_for(tokens >= 16 ? threads : 1, tokens, prepare);
    if (nonfinite) return report_nonfinite(input, tokens * cols_, failure);
    const int step = kernels_->linear_row_step;
    // Rows a task takes: small enough to share out evenly and to stay in L2 while the tokens pass.
    int chunk = std::max(step, static_cast<int>(round_up((rows_ + threads * 4 - 1) / (threads * 4), step)));
    chunk = std::min(chunk, std::max(step, (256 << 10) / std::max(1, cols_) / step * step));
    std::atomic<bool> out_of_memory{false};
    auto compute = [&](int64_t task) {
        Scratch* own = thread_scratch();
        if (!own) {
            out_of_memory = true;
            return;
        }
        LinearArgs args{};
        args.rows = rows_;
        args.cols = cols_;
        args.weights = weights_;
        args.scales = scales_;
        args.bias = bias_;
        args.input = direct ? static_cast<const void*>(input) : p.prepared;
        args.input_words = words;
        args.input_scale = p.input_scale;
        args.bfloat16 = bfloat16_;
        args.accumulate = steps.accumulate;
        args.tokens = static_cast<int>(tokens);
        args.out = steps.swiglu ? p.wide : out;
        args.out_stride = rows_;
        args.first_row = static_cast<int>(task) * chunk;
        args.last_row = std::min(rows_, args.first_row + chunk);
        if (is_int8_) {
            kernels_->linear_int8(args, own);
        } else {
            kernels_->linear_float(args, own);
        }
    };
    parallel_for(threads, (rows_ + chunk - 1) / chunk, compute);
    if (out_of_memory) return failure->set("ERR_OOM", "Expected %zu bytes of scratch memory a thread, got none", sizeof(Scratch));
    if (!steps.swiglu) return true;
    const int width = rows_ / 2;
    auto activate = [&](int64_t t) {
        const float* row = p.wide + t * rows_;
        kernels_->swiglu_row(row, row + width, width, out + t * width);
    };
    parallel_for(tokens >= 4 ? threads : 1, tokens, activate);
    return true;
}

}  // namespace int_flash
