#include "cache_append.h"

#include "arithmetic.h"
#include "cache_attention.h"

namespace int_flash {
namespace {

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

bool append_int4_row(const AppendSpec& s, int64_t head, int64_t t) {
    const KernelTable& kernels = *s.kernels;
    const int dim = s.head_dim;
    const int64_t row = row_of(s, head, s.length + t), element = t * s.stride + head * dim;
    alignas(64) float key[kMaxHeadDim], value[kMaxHeadDim];
    if (!kernels.turn_row(s.keys + element, s.key_shift + head * dim, dim, key) || !kernels.turn_row(s.values + element, nullptr, dim, value)) return false;
    bool key_narrowed, value_narrowed;
    const float key_scale = kernels.fit_int4_scale(key, dim, &key_narrowed), own_scale = kernels.fit_int4_scale(value, dim, &value_narrowed);
    const float value_scale = settle_scale(s, own_scale, head, s.length + t);
    s.key_scales[row] = key_scale;
    s.value_scales[row] = value_scale;
    kernels.encode_int4_row(key, dim, key_scale, key_narrowed, reinterpret_cast<uint8_t*>(s.key_codes) + row * (dim / 2));
    kernels.encode_int4_row(value, dim, value_scale, value_narrowed && value_scale == own_scale, reinterpret_cast<uint8_t*>(s.value_codes) + row * (dim / 2));
    return true;
}

bool append_int8_row(const AppendSpec& s, int64_t head, int64_t t) {
    const KernelTable& kernels = *s.kernels;
    const int dim = s.head_dim;
    const int64_t row = row_of(s, head, s.length + t), element = t * s.stride + head * dim;
    alignas(64) float key[kMaxHeadDim], value[kMaxHeadDim];
    const float key_scale = kernels.cache_row_scale(s.keys + element, s.key_shift + head * dim, dim, key);
    const float own_scale = kernels.cache_row_scale(s.values + element, nullptr, dim, value);
    if (!(key_scale > 0) || !(own_scale > 0)) return false;  // NaN
    const float value_scale = settle_scale(s, own_scale, head, s.length + t);
    s.key_scales[row] = key_scale;
    s.value_scales[row] = value_scale;
    kernels.encode_cache_row(key, dim, key_scale, s.key_codes + row * dim);
    kernels.encode_cache_row(value, dim, value_scale, s.value_codes + row * dim);
    return true;
}

}  // namespace

bool append_cache(const AppendSpec& spec) {
    for (int64_t head = 0; head < spec.kv_heads; head++)
        for (int64_t t = 0; t < spec.tokens; t++)
            if (!(spec.int4 ? append_int4_row : append_int8_row)(spec, head, t)) return false;
    return true;
}

}  // namespace int_flash
