// Page-locked host memory: the GPU copies from and to it without a staging copy.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "device.h"

namespace intflash {

class PinnedMemory {
public:
    /** On a worker thread. @throws Failure */
    PinnedMemory(std::shared_ptr<Device> device, size_t bytes);
    ~PinnedMemory();
    PinnedMemory(const PinnedMemory&) = delete;
    PinnedMemory& operator=(const PinnedMemory&) = delete;

    uint8_t* data() const { return static_cast<uint8_t*>(pointer_); }
    size_t bytes() const { return bytes_; }
    const Device& device() const { return *device_; }

private:
    const std::shared_ptr<Device> device_;
    void* pointer_ = nullptr;
    const size_t bytes_;
};

}  // namespace intflash
