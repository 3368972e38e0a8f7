// One layer of a decoding or prefilling step: attention of the last tokens of a sequence against its cache.
#pragma once
#include "failure.h"
#include "kernel_table.h"
#include "owned_memory.h"

namespace int_flash {

struct CacheSpec {
    const KernelTable* kernels = nullptr;
    int threads = 1;
    ElementType type = ElementType::kInt8;
    const void* keys = nullptr;
    const void* values = nullptr;
    const float* key_scales = nullptr;
    const float* value_scales = nullptr;
    int64_t kv_heads = 0, capacity = 0, length = 0;
    const int32_t* pages = nullptr;  // token t lies in row pages[t / kPageTokens] * kPageTokens + t % kPageTokens; null: in row t
    int head_dim = 0, heads = 0;
    int64_t tokens = 0;
    const float* query = nullptr;
    float* out = nullptr;
    float scale = 0, softcap = 0;
    int64_t window_left = -1;  // -1: unlimited
};

bool cache_attention(const CacheSpec& spec, LiveBytes* live, Failure* failure);

}  // namespace int_flash
