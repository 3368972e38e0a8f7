// Memory of one call. Big blocks are kept for the next call: a fresh one costs a page fault every 4 KiB, which takes longer than packing
// the keys and values that go into it.
#pragma once
#include "owned_memory.h"

namespace int_flash {

// As OwnedMemory: counted while it is held, aligned to cache lines, empty after a failed allocation.
class CallMemory {
public:
    CallMemory() = default;
    CallMemory(const CallMemory&) = delete;
    CallMemory& operator=(const CallMemory&) = delete;
    ~CallMemory() { release(); }

    bool allocate(size_t bytes, LiveBytes* live);
    void release();
    template <class T>
    T* as() const { return static_cast<T*>(data_); }
    size_t bytes() const { return bytes_; }

private:
    void* data_ = nullptr;
    size_t bytes_ = 0;  // of the block, which may be larger than what was asked for
    LiveBytes* live_ = nullptr;
};

// Results belong to JavaScript, which takes their memory from malloc, and glibc returns what is above a threshold to the system when it is
// freed: a third of the time of 512 tokens is page faults then. The threshold rises to the largest block that was freed so far, up to
// 32 MiB (mallopt(3), M_MMAP_THRESHOLD), unless the program set it; one such block, taken and freed untouched, makes it keep the others.
void keep_freed_memory();

// For a result that is not touched yet: one that malloc cannot keep gets pages of 2 MiB, where the system has them.
void prepare_result(void* data, size_t bytes);

}  // namespace int_flash
