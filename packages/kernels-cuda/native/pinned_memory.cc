#include "pinned_memory.h"

#include <cstring>
#include <utility>

#include "failure.h"

namespace intflash {

PinnedMemory::PinnedMemory(std::shared_ptr<Stream> home, size_t bytes) : home_(std::move(home)), bytes_(bytes) {
    const cudaError_t status = cudaHostAlloc(&pointer_, bytes == 0 ? 1 : bytes, cudaHostAllocPortable);
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        throw out_of_memory("host", bytes);
    }
    check_cuda(status, "allocate page-locked memory");
    std::memset(pointer_, 0, bytes);  // JS must not see what another process left behind
    home_->device().count_pinned_bytes(static_cast<int64_t>(bytes_));
}

PinnedMemory::~PinnedMemory() {
    const std::shared_ptr<Device> device = home_->device().shared_from_this();
    device->count_pinned_bytes(-static_cast<int64_t>(bytes_));
    home_->submit([device] { device->synchronize_streams(); },
                  [device, pointer = pointer_](std::exception_ptr) {  // whatever became of the wait
                      device->use();
                      cudaFreeHost(pointer);
                  });
}

}  // namespace intflash
