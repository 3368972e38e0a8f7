#include "cache_args.h"

#include "owned_memory.h"

namespace int_flash {
namespace {

struct Table {
    OwnedMemory memory;
    LiveBytes bytes{0};  // of no backend's objects
};
thread_local Table copied;

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
    if (copied.memory.bytes() < bytes && !copied.memory.allocate(2 * bytes, &copied.bytes)) {
        failure->bytes = static_cast<double>(bytes);
        return failure->set("ERR_OOM", "Expected %zu bytes of memory for the block table, got none", bytes);
    }
    int32_t* own = copied.memory.as<int32_t>();
    *table = own;
    for (int64_t i = 0; i < needed; i++) {
        const int32_t page = own[i] = static_cast<const volatile int32_t*>(pages.data)[i];
        if (page < 0 || page >= there) return failure->set("ERR_SHAPE", "Expected pages from 0 to %lld, got %d", static_cast<long long>(there - 1), page);
    }
    return true;
}

}  // namespace int_flash
