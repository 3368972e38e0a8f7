// New keys and values of a sequence, quantized into its INT8 or INT4 cache.
#pragma once
#include "kernel_table.h"

namespace int_flash {

struct AppendSpec {
    const KernelTable* kernels = nullptr;
    int threads = 1;
    bool int4 = false;
    const float* keys = nullptr;  // row t of all heads is `stride` elements behind row t - 1
    const float* values = nullptr;
    int64_t tokens = 0, stride = 0;
    const float* key_shift = nullptr;      // [kv_heads, head_dim], taken from every key
    float* largest_value_scale = nullptr;  // [kv_heads]; 0 while all value rows were zero
    int64_t kv_heads = 0, capacity = 0, length = 0;
    int head_dim = 0;
    const int32_t* pages = nullptr;  // as CacheSpec has them
    int8_t *key_codes = nullptr, *value_codes = nullptr;   // [kv_heads, capacity, head_dim]; INT4: half as many bytes
    float *key_scales = nullptr, *value_scales = nullptr;  // [kv_heads, capacity]
};

// False when a row is not finite, or a key is not once the shift is taken away.
bool append_cache(const AppendSpec& spec);

// `count` rows, turned as INT4 keys are; out may be rows. False when a result is not finite.
bool turn_rows(const KernelTable& kernels, int threads, const float* rows, int64_t count, int dim, float* out);

}  // namespace int_flash
