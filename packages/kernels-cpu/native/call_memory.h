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

}  // namespace int_flash
