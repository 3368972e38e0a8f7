// Device memory with an owner.
#pragma once
#include <cstddef>
#include <memory>

#include "stream.h"

namespace intflash {

/**
 * Allocated from the device's pool, freed in the order of its home stream: a job of that stream that was queued before the last
 * owner let go may still use it. Jobs of other streams hold a reference until the GPU is done with them.
 */
class Buffer {
public:
    Buffer(std::shared_ptr<Stream> home, size_t bytes);
    ~Buffer();
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    template <class T = void> T* as() const { return static_cast<T*>(pointer_); }
    size_t bytes() const { return bytes_; }
    Device& device() const { return home_->device(); }

private:
    std::shared_ptr<Stream> home_;
    void* pointer_ = nullptr;
    size_t bytes_;
};

}  // namespace intflash
