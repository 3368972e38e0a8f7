#include "pinned_memory.h"

#include <cstring>
#include <utility>

#include "failure.h"

namespace intflash {

PinnedMemory::PinnedMemory(std::shared_ptr<Device> device, size_t bytes) : device_(std::move(device)), bytes_(bytes) {
    const cudaError_t status = cudaHostAlloc(&pointer_, bytes == 0 ? 1 : bytes, cudaHostAllocPortable);
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        throw out_of_memory("host", bytes);
    }
    check_cuda(status, "allocate page-locked memory");
    std::memset(pointer_, 0, bytes);  // JS must not see what another process left behind
    device_->count_pinned_bytes(static_cast<int64_t>(bytes_));
}

PinnedMemory::~PinnedMemory() {
    device_->use();
    cudaFreeHost(pointer_);
    device_->count_pinned_bytes(-static_cast<int64_t>(bytes_));
}

}  // namespace intflash
