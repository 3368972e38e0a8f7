// Causal attention of a sequence's last tokens against its INT8 or INT4 cache, to the bits of the CPU backends (docs/arithmetic.md, "KV cache").
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "cache_page.h"

namespace intflash {

constexpr int kShortQuery = 8;  // tokens: up to here keys are split into runs whose results merge in order

/** Query row i of a KV head is token i / group, query head kv_head · group + i % group. */
struct CacheQuery {
    const int8_t* codes;  // [kv_heads, tokens · group, padded]
    const float* scales;  // [kv_heads, tokens · group]
};

struct CacheAttention {
    CacheView cache;
    CacheQuery query;
    const int32_t* start;  // on the device: tokens in the cache before these
    int tokens, heads, kv_heads, head_dim;
    float scale;
    int64_t window_left;  // keys to the left of a query's own that it sees; negative: all
    float* out;           // [tokens, out_stride], head after head
    int64_t out_stride;
    uint32_t* findings;
};

/** Scratch memory of a short query. `tickets` must be zero before the first use; launches leave it so. */
struct ShortQueryScratch {
    int32_t* sums;      // [kv_heads, tiles, tokens · group, padded]
    float* states;      // [kv_heads, tiles, tokens · group, 2]: maximum, row sum
    uint32_t* tickets;  // [kv_heads, parts]
};
int64_t short_query_sums(int kv_heads, int rows, int padded, int tiles);
int short_query_parts(int rows);

/** Up to kShortQuery tokens; a block for each tile of 128 keys. @param tiles that the launch covers, from the cache's first key */
cudaError_t launch_short_query(const CacheAttention& args, const ShortQueryScratch& scratch, int tiles, cudaStream_t stream);
/** More tokens; a block for 64 query rows, which walks the tiles in order. */
cudaError_t launch_long_query(const CacheAttention& args, cudaStream_t stream);

}  // namespace intflash
