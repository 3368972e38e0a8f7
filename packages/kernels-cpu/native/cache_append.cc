#include "cache_append.h"

#include <atomic>
#include <cstring>

#include "arithmetic.h"
#include "cache_attention.h"
#include "thread_pool.h"

namespace int_flash {
namespace {

// In elements that a thread quantizes to INT8, of which there are two in a nanosecond: those of INT4 rows, those only turned, and what
// handing work to a waiting thread costs.
constexpr double kInt4Element = 10, kTurnedElement = 2, kWorthAThread = 8e3;
constexpr float kScaleFloor = 9.5367431640625e-7f;  // 2^-20: contract in packages/ops/src/backend.ts

int64_t row_of(const AppendSpec& s, int64_t head, int64_t token) {
    const int64_t row = s.pages ? int64_t{s.pages[token / kPageTokens]} * kPageTokens + token % kPageTokens : token;
    return head * s.capacity + row;
}

// The scale of a value row that would have `own`, and the largest so far brought up to date.
float settle_scale(const AppendSpec& s, float own, int64_t head, int64_t token) {
    float& largest = s.largest_value_scale[head];
    if (own > kMinScale && own > largest) {
        // Rows of zeros at the very start had nothing to compare with; their scale is free, so it follows once there is something.
        if (largest == 0.0f)
            for (int64_t t = 0; t < token; t++) s.value_scales[row_of(s, head, t)] = own * kScaleFloor;
        return largest = own;
    }
    const float floor = largest == 0.0f ? 1.0f : largest * kScaleFloor;
    return own > floor ? own : floor;
}

// A row on its way into the cache: INT4 rows are turned, and their scales fitted.
struct Row {
    alignas(64) float numbers[kMaxHeadDim];
    float scale;
    bool narrowed = false;  // by the fit
};

// False when it is not finite.
bool read_row(const AppendSpec& s, const float* source, const float* shift, Row* row) {
    if (s.int4) {
        if (!s.kernels->turn_row(source, shift, s.head_dim, row->numbers)) return false;
        row->scale = s.kernels->fit_int4_scale(row->numbers, s.head_dim, &row->narrowed);
        return true;
    }
    row->scale = s.kernels->cache_row_scale(source, shift, s.head_dim, row->numbers);
    return row->scale > 0;  // else NaN
}

void write_row(const AppendSpec& s, const Row& row, float scale, int64_t place, int8_t* codes, float* scales) {
    scales[place] = scale;
    if (s.int4) {
        s.kernels->encode_int4_row(row.numbers, s.head_dim, scale, row.narrowed && scale == row.scale, reinterpret_cast<uint8_t*>(codes) + place * (s.head_dim / 2));
    } else {
        s.kernels->encode_cache_row(row.numbers, s.head_dim, scale, codes + place * s.head_dim);
    }
}

bool append_keys(const AppendSpec& s, int64_t head) {
    Row row;
    for (int64_t t = 0; t < s.tokens; t++) {
        if (!read_row(s, s.keys + t * s.stride + head * s.head_dim, s.key_shift + head * s.head_dim, &row)) return false;
        write_row(s, row, row.scale, row_of(s, head, s.length + t), s.key_codes, s.key_scales);
    }
    return true;
}

bool append_values(const AppendSpec& s, int64_t head) {
    Row row;
    for (int64_t t = 0; t < s.tokens; t++) {
        if (!read_row(s, s.values + t * s.stride + head * s.head_dim, nullptr, &row)) return false;
        write_row(s, row, settle_scale(s, row.scale, head, s.length + t), row_of(s, head, s.length + t), s.value_codes, s.value_scales);
    }
    return true;
}

}  // namespace

bool append_cache(const AppendSpec& spec) {
    const double elements = 2.0 * static_cast<double>(spec.tokens * spec.kv_heads) * spec.head_dim;
    std::atomic<bool> finite{true};
    // task: a head, times 2: its keys or its values.
    auto append = [&](int64_t task) {
        if (!(task % 2 == 0 ? append_keys : append_values)(spec, task / 2)) finite = false;
    };
    parallel_for(threads_worth(elements * (spec.int4 ? kInt4Element : 1) / kWorthAThread, spec.threads), 2 * spec.kv_heads, append);
    return finite;
}

bool turn_rows(const KernelTable& kernels, int threads, const float* rows, int64_t count, int dim, float* out) {
    constexpr int64_t kChunk = 32;  // rows a task takes
    std::atomic<bool> finite{true};
    auto turn = [&](int64_t task) {
        alignas(64) float row[kMaxHeadDim];
        for (int64_t i = task * kChunk; i < count && i < (task + 1) * kChunk; i++) {
            if (!kernels.turn_row(rows + i * dim, nullptr, dim, row)) finite = false;
            std::memcpy(out + i * dim, row, static_cast<size_t>(dim) * sizeof(float));
        }
    };
    parallel_for(threads_worth(static_cast<double>(count) * dim * kTurnedElement / kWorthAThread, threads), (count + kChunk - 1) / kChunk, turn);
    return finite;
}

}  // namespace int_flash
