// Causal attention of sequences' last tokens against their INT8 or INT4 caches, to the bits of the CPU backends (docs/arithmetic.md, "KV cache").
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "cache_page.h"

namespace intflash {

constexpr int kShortQuery = 8;  // tokens: up to here keys are split into runs whose results merge in order

/**
 * Sequence s's rows follow those of the sequences before it (row `first` · heads on). Among them, query row i of a KV head is token
 * i / group, query head kv_head · group + i % group.
 */
struct CacheQuery {
    const int8_t* codes;  // [sequences][kv_heads, tokens · group, padded]
    const float* scales;  // [sequences][kv_heads, tokens · group]
};

struct CacheAttention {
    CacheLayer cache;
    StepTable step;
    CacheQuery query;
    int heads, kv_heads, head_dim;
    float scale;
    int64_t window_left;  // keys to the left of a query's own that it sees; negative: all
    float* out;           // [tokens, out_stride], head after head
    int64_t out_stride;
    uint32_t* findings;
};

/** How the keys of short queries are shared out; the bits are the same. */
enum class KeySplit : int32_t {
    kTiles,  // a block takes 128 keys: where a block of a run's size finds no room
    kRuns,   // a block takes one run of 1,024 or several; a run's partial results stay on the processor
};

/** Scratch memory of short queries. `tickets` must be zero before the first use; launches leave it so. */
struct ShortQueryScratch {
    int32_t* sums;      // [sequences, kv_heads, tiles, rows, padded]; floats and [.., runs, ..] for kRuns
    float* states;      // [sequences, kv_heads, tiles, rows, 2]: maximum, row sum
    uint32_t* tickets;  // [sequences, kv_heads, parts]
};
int short_query_parts(int rows);

/**
 * Of the sequences with up to kShortQuery tokens.
 *
 * @param tiles that the launch covers, from the caches' first keys
 * @param rows  of a KV head, at most: what scratch memory is laid out for
 */
cudaError_t launch_short_query(const CacheAttention& args, const ShortQueryScratch& scratch, int tiles, int rows, cudaStream_t stream);
cudaError_t launch_run_query(const CacheAttention& args, const ShortQueryScratch& scratch, int tiles, int rows, cudaStream_t stream);
/** Whether a block of the latter finds room in `shared_bytes` of shared memory. */
bool run_query_fits(int padded, bool int4, int rows, int shared_bytes);

/** Of the sequences with more tokens; a block for 64 query rows, which walks the tiles in order. */
cudaError_t launch_long_query(const CacheAttention& args, cudaStream_t stream);

}  // namespace intflash
