#include "call_memory.h"

#include <cstdlib>
#include <mutex>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace int_flash {
namespace {

constexpr size_t kWorthKeeping = size_t{256} << 10;
constexpr size_t kMostKept = size_t{64} << 20;  // of a process, in all its spare blocks
constexpr size_t kHugePage = size_t{2} << 20;
constexpr int kSpares = 4;
constexpr size_t kMostMallocKeeps = (size_t{4} << 20) * sizeof(long);  // glibc's DEFAULT_MMAP_THRESHOLD_MAX

struct Block {
    void* data = nullptr;
    size_t bytes = 0;
};

// Blocks that nobody uses; guarded by the mutex. Never torn down: calls may still run while the process exits.
struct Spares {
    std::mutex mutex;
    Block blocks[kSpares];
    size_t bytes = 0;
};

Spares& spares() {
    static Spares* const instance = new Spares;
    return *instance;
}

Block take_spare(size_t wanted) {
    Spares& s = spares();
    const std::lock_guard<std::mutex> lock(s.mutex);
    Block* best = nullptr;
    for (Block& block : s.blocks)
        if (block.bytes >= wanted && (!best || block.bytes < best->bytes)) best = &block;
    if (!best) return {};
    const Block taken = *best;
    *best = {};
    s.bytes -= taken.bytes;
    return taken;
}

// Keeps the block, in place of smaller ones if need be; returns one that is to be freed.
Block keep_spare(Block given) {
    if (given.bytes < kWorthKeeping || given.bytes > kMostKept) return given;
    Spares& s = spares();
    const std::lock_guard<std::mutex> lock(s.mutex);
    Block* smallest = s.blocks;
    for (Block& block : s.blocks)
        if (block.bytes < smallest->bytes) smallest = &block;
    if (smallest->bytes >= given.bytes || s.bytes - smallest->bytes + given.bytes > kMostKept) return given;
    const Block dropped = *smallest;
    s.bytes += given.bytes - dropped.bytes;
    *smallest = given;
    return dropped;
}

void advise_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
    const auto address = reinterpret_cast<uintptr_t>(data);
    const uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage, end = (address + bytes) / kHugePage * kHugePage;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a wish; refused, it is as fast as before
#else
    (void)data, (void)bytes;
#endif
}

}  // namespace

bool CallMemory::allocate(size_t bytes, LiveBytes* live) {
    release();
    if (bytes > SIZE_MAX / 2) return false;
    Block block;
    if (bytes >= kWorthKeeping) block = take_spare(bytes);
    if (!block.data) {
        const size_t alignment = bytes >= kHugePage ? kHugePage : 64;
        block.bytes = (bytes + alignment) / alignment * alignment;
        block.data = aligned_memory(alignment, block.bytes);
        if (!block.data) return false;
        advise_huge_pages(block.data, block.bytes);
    }
    data_ = block.data;
    bytes_ = block.bytes;
    live_ = live;
    live_->fetch_add(static_cast<int64_t>(bytes_), std::memory_order_relaxed);
    return true;
}

void CallMemory::release() {
    if (!data_) return;
    live_->fetch_sub(static_cast<int64_t>(bytes_), std::memory_order_relaxed);
    free_aligned_memory(keep_spare({data_, bytes_}).data);
    data_ = nullptr;
    bytes_ = 0;
}

void keep_freed_memory() {
#if defined(__GLIBC__)
    // Two pages less: glibc rounds up with the block's header, and compares with its flags. Volatile: else the compiler drops both calls.
    void* volatile block = malloc(kMostMallocKeeps - 8192);
    free(block);
#endif
}

void prepare_result(void* data, size_t bytes) {
    if (bytes >= kMostMallocKeeps) advise_huge_pages(data, bytes);
}

}  // namespace int_flash
