// What the bindings of caches judge alike.
#pragma once
#include "cache_append.h"
#include "js_args.h"

namespace int_flash {

constexpr double kMaxTokens = 4398046511104.0;  // 2^42

// False, with `failure` set, when `array` is shorter than `needed` elements.
bool holds(const ArrayView& array, double needed, const char* name, Failure* failure);

// The block table, which must name pages that exist for every one of `tokens` tokens; null in `table` where the argument is absent. It is a copy, good until the
// thread's next call: the caller's could lie in memory that the call itself writes.
bool read_pages(ArgumentReader* args, size_t index, int64_t tokens, int64_t capacity, const int32_t** table, Failure* failure);

// A cache of codes that rows go into: keys, values, their scales, keyShift, largestValueScale and pages, from argument `first` on; `spec` knows its size already.
bool read_code_cache(ArgumentReader* args, size_t first, AppendSpec* spec, Failure* failure);
// Before those are read: without a block table, the rows fit behind those that are there.
bool expect_room(ArgumentReader* args, size_t first, const AppendSpec& spec, Failure* failure);

}  // namespace int_flash
