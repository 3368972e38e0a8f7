#include "cache_args.h"

#include "owned_memory.h"

namespace int_flash {
namespace {

thread_local ThreadMemory copied;
constexpr size_t kPagesBehind = 6;  // the first of a cache's arguments

}  // namespace

bool holds(const ArrayView& array, double needed, const char* name, Failure* failure) {
    if (needed <= static_cast<double>(array.length)) return true;
    return failure->set("ERR_SHAPE", "Expected %s to hold %.0f elements, got %zu", name, needed, array.length);
}

bool read_pages(ArgumentReader* args, size_t index, int64_t tokens, int64_t capacity, const int32_t** table, Failure* failure) {
    if (args->absent(index)) return true;
    const ArrayView pages = args->view(index, "pages", napi_int32_array);
    const int64_t needed = round_up(tokens, kPageTokens) / kPageTokens, there = capacity / kPageTokens;
    if (!args->ok() || !holds(pages, static_cast<double>(needed), "pages", failure)) return false;
    const size_t bytes = static_cast<size_t>(needed) * sizeof(int32_t);
    if (!copied.reserve(bytes)) {
        failure->bytes = static_cast<double>(bytes);
        return failure->set("ERR_OOM", "Expected %zu bytes of memory for the block table, got none", bytes);
    }
    int32_t* own = copied.as<int32_t>();
    *table = own;
    for (int64_t i = 0; i < needed; i++) {
        const int32_t page = own[i] = static_cast<const volatile int32_t*>(pages.data)[i];
        if (page < 0 || page >= there) return failure->set("ERR_SHAPE", "Expected pages from 0 to %lld, got %d", static_cast<long long>(there - 1), page);
    }
    return true;
}

bool expect_room(ArgumentReader* args, size_t first, const AppendSpec& spec, Failure* failure) {
    if (!args->absent(first + kPagesBehind) || spec.length + spec.tokens <= spec.capacity) return true;
    return failure->set("ERR_SHAPE", "Expected room for %lld tokens behind %lld, got a capacity of %lld", static_cast<long long>(spec.tokens), static_cast<long long>(spec.length),
                        static_cast<long long>(spec.capacity));
}

bool read_code_cache(ArgumentReader* args, size_t first, AppendSpec* spec, Failure* failure) {
    AppendSpec& s = *spec;
    const napi_typedarray_type codes = s.int4 ? napi_uint8_array : napi_int8_array;
    const double heads = static_cast<double>(s.kv_heads), scales = heads * static_cast<double>(s.capacity), coded = scales * s.head_dim / (s.int4 ? 2 : 1);
    const ArrayView keys = args->view(first, "keys", codes), values = args->view(first + 1, "values", codes);
    const ArrayView key_scales = args->float32_view(first + 2, "keyScales"), value_scales = args->float32_view(first + 3, "valueScales");
    const ArrayView shift = args->float32_view(first + 4, "keyShift"), largest = args->float32_view(first + 5, "largestValueScale");
    if (!args->ok() || !holds(keys, coded, "keys", failure) || !holds(values, coded, "values", failure) || !holds(key_scales, scales, "keyScales", failure) ||
        !holds(value_scales, scales, "valueScales", failure) || !holds(shift, heads * s.head_dim, "keyShift", failure) || !holds(largest, heads, "largestValueScale", failure) ||
        !read_pages(args, first + kPagesBehind, s.length + s.tokens, s.capacity, &s.pages, failure))
        return false;
    s.key_codes = static_cast<int8_t*>(keys.data);
    s.value_codes = static_cast<int8_t*>(values.data);
    s.key_scales = static_cast<float*>(key_scales.data);
    s.value_scales = static_cast<float*>(value_scales.data);
    s.key_shift = static_cast<const float*>(shift.data);
    s.largest_value_scale = static_cast<float*>(largest.data);
    return true;
}

}  // namespace int_flash
