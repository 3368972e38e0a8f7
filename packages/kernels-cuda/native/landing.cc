#include "landing.h"

#include <cuda_runtime_api.h>

#include "device.h"
#include "failure.h"

namespace intflash {
namespace {

constexpr size_t kLeastBytes = 4096;

}  // namespace

LandingPool::~LandingPool() {
    for (const auto& [memory, bytes] : idle_) cudaFreeHost(memory);
}

std::pair<void*, size_t> LandingPool::take(size_t bytes) {
    size_t size = kLeastBytes;
    while (size < bytes) size *= 2;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (auto& each : idle_) {
            if (each.second != size) continue;
            std::swap(each, idle_.back());
            const auto taken = idle_.back();
            idle_.pop_back();
            return taken;
        }
        idle_.reserve(++made_);  // so that nothing can fail where it is given back
    }
    void* memory = nullptr;
    const cudaError_t status = cudaHostAlloc(&memory, size, cudaHostAllocPortable);
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        throw out_of_memory("host", size);
    }
    check_cuda(status, "allocate page-locked memory");
    return {memory, size};
}

void LandingPool::give_back(void* memory, size_t bytes) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.emplace_back(memory, bytes);
}

Landing::Landing(Device& device, size_t bytes) : device_(device.shared_from_this()), memory_(device.landings().take(bytes)) {}

Landing::~Landing() {
    if (std::uncaught_exceptions() == errors_) {
        device_->landings().give_back(memory_.first, memory_.second);
    } else {  // a copy may be on its way here yet: not for others, and CUDA waits for it
        device_->use();
        cudaFreeHost(memory_.first);
    }
}

}  // namespace intflash
