#include "linear_layer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

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

}  // namespace

bool LinearLayer::create(const KernelTable* kernels, int threads, int rows, int cols, const int8_t* codes, const float* scales, const float* weights,
                         const float* bias, LiveBytes* live, Failure* failure) {
    kernels_ = kernels;
    threads_ = threads;
    rows_ = rows;
    cols_ = cols;
    is_int8_ = codes != nullptr;
    const size_t padded_cols = static_cast<size_t>(round_up(cols, 16)), count = static_cast<size_t>(rows);
    const auto take = [&](Arena arena) {
        if (is_int8_) {
            weights_ = arena.take<char>(kernels->linear_int8_bytes(rows, cols));
            scales_ = arena.take<float>(count);
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
        float* out = static_cast<float*>(weights_);
        for (size_t r = 0; r < count; r++) {
            std::memcpy(out + r * padded_cols, weights + r * static_cast<size_t>(cols), static_cast<size_t>(cols) * 4);
            std::fill(out + r * padded_cols + cols, out + (r + 1) * padded_cols, 0.0f);
        }
    }
    if (bias) std::memcpy(bias_, bias, count * 4);
    return true;
}

void LinearLayer::dispose() {
    memory_.release();
    disposed_ = true;
}

bool LinearLayer::forward(const float* input, int64_t tokens, float* out, Failure* failure) const {
    if (tokens == 0) return true;
    Scratch* scratch = thread_scratch();
    const int padded = static_cast<int>(round_up(cols_, is_int8_ ? 64 : 16));
    const bool direct = !is_int8_ && padded == cols_;
    const int words = is_int8_ ? padded / kernels_->granule : padded;
    const size_t row_bytes = static_cast<size_t>(words) * 4, bytes = (direct ? 0 : row_bytes * static_cast<size_t>(tokens)) + static_cast<size_t>(tokens) * 4 + 64;
    if (!scratch || (workspace.memory.bytes() < bytes && !workspace.memory.allocate(bytes + bytes / 2, &workspace.bytes))) {
        failure->bytes = static_cast<double>(bytes);
        return failure->set("ERR_OOM", "Expected %zu bytes of memory for the input, got none", bytes);
    }
    char* prepared = workspace.memory.as<char>();
    float* input_scale = reinterpret_cast<float*>(prepared + (direct ? 0 : (row_bytes * static_cast<size_t>(tokens) + 63) / 64 * 64));
    std::atomic<bool> nonfinite{false};
    const double macs = static_cast<double>(tokens) * rows_ * cols_;
    const int threads = macs < 150e3 ? 1 : threads_;
    if (is_int8_) {
        auto prepare = [&](int64_t t) {
            uint32_t bits = 0;
            kernels_->prepare_int8_row(input + t * cols_, cols_, reinterpret_cast<uint32_t*>(prepared + static_cast<size_t>(t) * row_bytes), input_scale + t,
                                       &bits, nullptr);
            if (bits >= 0x7f800000u) nonfinite = true;
        };
        parallel_for(tokens >= 16 ? threads : 1, tokens, prepare);
        if (nonfinite) {
            for (int64_t i = 0; i < tokens * cols_; i++) {
                if (std::isfinite(input[i])) continue;
                const char* what = std::isnan(input[i]) ? "NaN" : input[i] > 0 ? "Infinity" : "-Infinity";
                return failure->set("ERR_NONFINITE", "Expected input to hold finite numbers, got %s at element %lld", what, static_cast<long long>(i));
            }
        }
    } else if (!direct) {
        for (int64_t t = 0; t < tokens; t++) {
            float* row = reinterpret_cast<float*>(prepared + static_cast<size_t>(t) * row_bytes);
            std::memcpy(row, input + t * cols_, static_cast<size_t>(cols_) * 4);
            std::fill(row + cols_, row + padded, 0.0f);
        }
    }
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
        args.input = direct ? static_cast<const void*>(input) : prepared;
        args.input_words = words;
        args.input_scale = input_scale;
        args.tokens = static_cast<int>(tokens);
        args.out = out;
        args.out_stride = rows_;
        args.first_row = static_cast<int>(task) * chunk;
        args.last_row = std::min(rows_, args.first_row + chunk);
        if (is_int8_) {
            kernels_->linear_int8(args, own);
        } else {
            kernels_->linear_fp32(args, own);
        }
    };
    parallel_for(threads, (rows_ + chunk - 1) / chunk, compute);
    if (out_of_memory) return failure->set("ERR_OOM", "Expected %zu bytes of scratch memory a thread, got none", sizeof(Scratch));
    return true;
}

}  // namespace int_flash
