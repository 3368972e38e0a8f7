// Memory of one backend's live objects: counted, aligned, and never thrown about.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#if defined(_MSC_VER)
#include <malloc.h>
#endif

namespace int_flash {

using LiveBytes = std::atomic<int64_t>;

// Null when there is none; `bytes` is a multiple of `alignment`.
inline void* aligned_memory(size_t alignment, size_t bytes) {
#if defined(_MSC_VER)
    return _aligned_malloc(bytes, alignment);
#else
    void* data = nullptr;
    return posix_memalign(&data, alignment, bytes) == 0 ? data : nullptr;
#endif
}

inline void free_aligned_memory(void* data) {
#if defined(_MSC_VER)
    _aligned_free(data);
#else
    free(data);
#endif
}

// A cache-line aligned block that knows its counter. Empty after a failed allocation.
class OwnedMemory {
public:
    OwnedMemory() = default;
    OwnedMemory(const OwnedMemory&) = delete;
    OwnedMemory& operator=(const OwnedMemory&) = delete;
    ~OwnedMemory() { release(); }

    bool allocate(size_t bytes, LiveBytes* live) {
        release();
        constexpr size_t kAlignment = 64;
        if (bytes > SIZE_MAX - 2 * kAlignment) return false;
        const size_t rounded = (bytes + kAlignment) / kAlignment * kAlignment;  // at least one line, so that data is never null
        data_ = aligned_memory(kAlignment, rounded);
        if (!data_) return false;
        bytes_ = rounded;
        live_ = live;
        live_->fetch_add(static_cast<int64_t>(rounded), std::memory_order_relaxed);
        return true;
    }

    void release() {
        if (!data_) return;
        free_aligned_memory(data_);
        live_->fetch_sub(static_cast<int64_t>(bytes_), std::memory_order_relaxed);
        data_ = nullptr;
        bytes_ = 0;
    }

    template <class T>
    T* as() const { return static_cast<T*>(data_); }
    size_t bytes() const { return bytes_; }

private:
    void* data_ = nullptr;
    size_t bytes_ = 0;
    LiveBytes* live_ = nullptr;
};

// What a thread keeps between its calls: a decode step makes hundreds of them. Of no backend's objects.
class ThreadMemory {
public:
    // False when there is none.
    bool reserve(size_t bytes) { return memory_.bytes() >= bytes || memory_.allocate(bytes + bytes / 2, &live_); }
    template <class T>
    T* as() const { return memory_.as<T>(); }

private:
    LiveBytes live_{0};
    OwnedMemory memory_;  // counts in the one above until its end
};

// Hands out parts of one block; with a null base it only adds up what will be needed.
class Arena {
public:
    explicit Arena(char* base) : base_(base) {}
    template <class T>
    T* take(size_t count) {
        char* here = base_ ? base_ + used_ : nullptr;
        used_ += (count * sizeof(T) + 63) / 64 * 64;
        return reinterpret_cast<T*>(here);
    }
    size_t used() const { return used_; }

private:
    char* base_;
    size_t used_ = 0;
};

}  // namespace int_flash
