#include "buffer.h"

#include <utility>

#include "failure.h"

namespace intflash {

Buffer::Buffer(std::shared_ptr<Stream> home, size_t bytes) : home_(std::move(home)), bytes_(bytes) {
    Device& device = home_->device();
    const size_t asked = bytes == 0 ? 1 : bytes;  // a real address even for nothing, so that kernels need no special case
    cudaError_t status = cudaMallocFromPoolAsync(&pointer_, asked, device.pool(), home_->handle());
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        device.synchronize_streams();  // what was freed in stream order is free only now
        device.trim();
        status = cudaMallocFromPoolAsync(&pointer_, asked, device.pool(), home_->handle());
    }
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        throw out_of_memory("device", bytes);
    }
    check_cuda(status, "allocate device memory");
    device.count_bytes(static_cast<int64_t>(bytes_));
}

Buffer::~Buffer() {
    home_->device().use();  // the last owner may live on any thread
    cudaFreeAsync(pointer_, home_->handle());
    home_->device().count_bytes(-static_cast<int64_t>(bytes_));
}

}  // namespace intflash
