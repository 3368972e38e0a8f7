// Page-locked host memory: the GPU copies from and to it without a staging copy.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "stream.h"

namespace intflash {

class PinnedMemory {
public:
    /** On the worker thread of `home`. @throws Failure */
    PinnedMemory(std::shared_ptr<Stream> home, size_t bytes);
    /** On any thread: `home` frees the memory, which takes as long as something runs on the GPU. */
    ~PinnedMemory();
    PinnedMemory(const PinnedMemory&) = delete;
    PinnedMemory& operator=(const PinnedMemory&) = delete;

    uint8_t* data() const { return static_cast<uint8_t*>(pointer_); }
    size_t bytes() const { return bytes_; }
    const Device& device() const { return home_->device(); }

private:
    const std::shared_ptr<Stream> home_;
    void* pointer_ = nullptr;
    const size_t bytes_;
};

}  // namespace intflash
