// Rotary position embedding of many tokens, to the bits of llm's Rotary: products and their difference in float64, rounded once.
#pragma once
#include <cstddef>
#include <cstring>

#include "../kernel_table.h"

namespace int_flash {
namespace {

// `from` and `to` do not overlap, or are the same.
void rotate_heads(const RotaryArgs& args) {
    const int half = args.half;
    for (int64_t token = 0; token < args.tokens; token++) {
        const float* cos = args.cos + token * half;
        const float* sin = args.sin + token * half;
        for (int head = 0; head < args.heads; head++) {
            const float* from = args.from + token * args.from_stride + static_cast<ptrdiff_t>(head) * args.head_dim;
            float* to = args.to + token * args.to_stride + static_cast<ptrdiff_t>(head) * args.head_dim;
            alignas(64) float low[kMaxHeadDim / 2], high[kMaxHeadDim / 2];
            for (int d = 0; d < half; d++) {
                const double a = from[d], b = from[half + d], c = cos[d], s = sin[d];
                low[d] = static_cast<float>(a * c - b * s);
                high[d] = static_cast<float>(b * c + a * s);
            }
            if (from != to) memcpy(to + 2 * half, from + 2 * half, static_cast<size_t>(args.head_dim - 2 * half) * sizeof(float));
            memcpy(to, low, static_cast<size_t>(half) * sizeof(float));
            memcpy(to + half, high, static_cast<size_t>(half) * sizeof(float));
        }
    }
}

}  // namespace
}  // namespace int_flash
