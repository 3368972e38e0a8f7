// What decoding needs besides score_rows and weigh_rows, for instruction sets that have no way of their own.
#pragma once
#include <stddef.h>

#include "../../arithmetic.h"

namespace int_flash {
namespace {

struct PlainRows {
    static constexpr bool kChannelsOfRows = false;    // channel_stats as plain loops
    static constexpr bool kInt4Rows = false;  // INT4 rows are unpacked into bytes first
    static constexpr bool kSlowScales = true;  // read_weights takes as long as a pass over a tile of rows

    // inverse[j] = 1 / w and tau[j] = log2 w for the next 32 weights w.
    INT_FLASH_INLINE void read_weights(const float* given, float* inverse, float* tau) {
        for (int j = 0; j < 32; j++) {
            const float weight = given[j] > kMinGivenWeight ? given[j] : kMinGivenWeight;
            inverse[j] = 1.0f / weight;
            tau[j] = log2_weight(weight);
        }
    }
};

}  // namespace
}  // namespace int_flash
