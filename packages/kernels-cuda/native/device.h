// One GPU: what it is, its pool of memory, and whether it still answers.
#pragma once
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <type_traits>
#include <vector>

#include "landing.h"

namespace intflash {

class CublasLt;

struct DeviceFacts {
    char name[256];
    int major, minor, processors, shared_bytes_per_block, l2_bytes;
    int64_t total_bytes;
    bool has_hopper_kernels;  // it is one, and runs their code (running_code.h)
};

using SharedStream = std::shared_ptr<std::remove_pointer_t<cudaStream_t>>;

class Device : public std::enable_shared_from_this<Device> {
public:
    /** @throws Failure */
    static std::shared_ptr<Device> open(int ordinal);
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    const DeviceFacts& facts() const { return facts_; }
    int ordinal() const { return ordinal_; }
    cudaMemPool_t pool() const { return pool_; }
    /** Makes this device the calling thread's. */
    void use() const;
    /** Bytes of device memory that have an owner. */
    int64_t live_bytes() const { return live_bytes_.load(); }
    void count_bytes(int64_t change) { live_bytes_ += change; }
    /** The same of page-locked host memory. */
    int64_t pinned_bytes() const { return pinned_bytes_.load(); }
    void count_pinned_bytes(int64_t change) { pinned_bytes_ += change; }
    /** Gives cached memory back to the driver. */
    void trim() const;
    /** A stream of this device, destroyed with its last owner. Of those a wait for all streams may be one, so the device keeps an eye on it. @throws Failure */
    SharedStream create_stream();
    /** Waits for all streams, after which everything freed is free. On a worker thread; nobody else waits for it. */
    void synchronize_streams();

    /** Where results land on the host. */
    LandingPool& landings() { return landings_; }

    /** cuBLASLt on this device, loaded when first asked for; null where there is none. On a worker thread. */
    CublasLt* cublas_lt();

    /** After a fault in a kernel the context of this process is gone for good, for every Device of this ordinal. */
    void lose() const;
    bool lost() const;

private:
    Device();

    int ordinal_ = 0;
    DeviceFacts facts_{};
    cudaMemPool_t pool_ = nullptr;
    LandingPool landings_;
    std::atomic<int64_t> live_bytes_{0}, pinned_bytes_{0};
    std::mutex mutex_;  // the JS thread takes it too: never held while anything is waited for
    std::vector<std::weak_ptr<SharedStream::element_type>> streams_;
    std::once_flag cublas_lt_asked_;
    std::unique_ptr<CublasLt> cublas_lt_;
};

}  // namespace intflash
