// How long attention against KV caches takes by itself, for benchmarks.
#pragma once
#include <vector>

#include "cache_attention.h"
#include "stream.h"

namespace intflash {

/** One token each of `sequences` sequences that hold `length`. */
struct CacheTiming {
    int sequences, length, heads, kv_heads, head_dim;
    bool int4;
    KeySplit split;
    int repeats;
};

/**
 * Milliseconds a launch, of each repeat: ten queued behind others, as a decoder's layers follow each other in a step, but with nothing between
 * them: the first loads of one run during the end of the one before, where a step has them run during the append. There are so many layers that
 * each finds its cache in memory and not in the GPU's cache. The codes are arbitrary. On the worker thread of `stream`. @throws Failure
 */
std::vector<float> cache_attention_times(Stream& stream, const CacheTiming& what);

}  // namespace intflash
