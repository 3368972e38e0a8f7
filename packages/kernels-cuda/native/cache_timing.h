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

/** Milliseconds of each repeat, the GPU's cache emptied before; the codes are arbitrary. On the worker thread of `stream`. @throws Failure */
std::vector<float> cache_attention_times(Stream& stream, const CacheTiming& what);

}  // namespace intflash
