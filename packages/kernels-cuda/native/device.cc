#include "device.h"

#include <cstdio>
#include <utility>

#include "failure.h"

namespace intflash {

void check_cuda(cudaError_t status, const char* doing) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // clears what can be cleared
    const std::string text = std::string(doing) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
    // After a fault in a kernel every call of the process on this context fails alike.
    switch (status) {
        case cudaErrorIllegalAddress:
        case cudaErrorLaunchFailure:
        case cudaErrorLaunchTimeout:
        case cudaErrorAssert:
        case cudaErrorHardwareStackError:
        case cudaErrorIllegalInstruction:
        case cudaErrorMisalignedAddress:
        case cudaErrorInvalidAddressSpace:
        case cudaErrorInvalidPc:
        case cudaErrorECCUncorrectable:
        case cudaErrorDevicesUnavailable:
        case cudaErrorCudartUnloading: throw Failure("ERR_DEVICE_LOST", text);
        case cudaErrorMemoryAllocation: {
            Failure failure("ERR_OOM", text);
            failure.where = "device";
            throw failure;
        }
        default: throw Failure("ERR_CUDA", text);
    }
}

Buffer::Buffer(std::shared_ptr<Device> device, size_t bytes) : device_(std::move(device)), bytes_(bytes) {
    const size_t asked = bytes == 0 ? 1 : bytes;  // a real address even for nothing, so that kernels need no special case
    cudaError_t status = cudaMallocFromPoolAsync(&pointer_, asked, device_->pool_, device_->stream_);
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        cudaStreamSynchronize(device_->stream_);  // what was freed in stream order is free only now
        device_->trim();
        status = cudaMallocFromPoolAsync(&pointer_, asked, device_->pool_, device_->stream_);
    }
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        Failure failure("ERR_OOM", "Expected " + std::to_string(bytes) + " bytes of device memory, got none: the device is full");
        failure.where = "device";
        failure.bytes = static_cast<int64_t>(bytes);
        throw failure;
    }
    check_cuda(status, "allocate device memory");
    device_->live_bytes_ += static_cast<int64_t>(bytes_);
}

Buffer::~Buffer() {
    cudaSetDevice(device_->ordinal_);  // the last owner may live on any thread
    cudaFreeAsync(pointer_, device_->stream_);
    device_->live_bytes_ -= static_cast<int64_t>(bytes_);
}

std::shared_ptr<Device> Device::open(int ordinal) {
    std::shared_ptr<Device> device(new Device());
    device->start(ordinal);
    return device;
}

void Device::start(int ordinal) {
    ordinal_ = ordinal;
    check_cuda(cudaSetDevice(ordinal), "select the device");
    cudaDeviceProp properties{};
    check_cuda(cudaGetDeviceProperties(&properties, ordinal), "read the device's properties");
    std::snprintf(facts_.name, sizeof facts_.name, "%s", properties.name);
    facts_.major = properties.major;
    facts_.minor = properties.minor;
    facts_.processors = properties.multiProcessorCount;
    facts_.shared_bytes_per_block = static_cast<int>(properties.sharedMemPerBlockOptin);
    facts_.total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "create a stream");
    cudaMemPoolProps pool{};
    pool.allocType = cudaMemAllocationTypePinned;
    pool.location.type = cudaMemLocationTypeDevice;
    pool.location.id = ordinal;
    check_cuda(cudaMemPoolCreate(&pool_, &pool), "create a memory pool");
    uint64_t keep = UINT64_MAX;  // freed memory stays in the pool until trim()
    check_cuda(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep), "configure the memory pool");
    worker_ = std::thread([this] { work_loop(); });
}

Device::~Device() {
    shutdown();
    cudaSetDevice(ordinal_);
    if (stream_ != nullptr) {
        cudaStreamSynchronize(stream_);
        cudaStreamDestroy(stream_);
    }
    if (pool_ != nullptr) cudaMemPoolDestroy(pool_);
}

void Device::submit(Work work, Done done) {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!stopping_) {
            queue_.push_back({std::move(work), std::move(done)});
            changed_.notify_all();
            return;
        }
    }
    done(std::make_exception_ptr(Failure("ERR_DISPOSED", "Expected an open CUDA device, got one that was disposed")));
}

void Device::run(const Work& work) {
    std::mutex mutex;
    std::condition_variable finished;
    bool over = false;
    std::exception_ptr error;
    submit(work, [&](std::exception_ptr thrown) {
        const std::lock_guard<std::mutex> lock(mutex);  // held while notifying: the waiter owns these variables
        error = thrown;
        over = true;
        finished.notify_one();
    });
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [&] { return over; });
    if (error) std::rethrow_exception(error);
}

void Device::shutdown() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
        changed_.notify_all();
    }
    const std::lock_guard<std::mutex> lock(join_mutex_);
    if (!worker_.joinable()) return;
    if (worker_.get_id() == std::this_thread::get_id()) worker_.detach();  // the last owner was a job
    else worker_.join();
}

void Device::work_loop() {
    cudaSetDevice(ordinal_);
    for (;;) {
        Job job;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
            if (queue_.empty()) return;
            job = std::move(queue_.front());
            queue_.pop_front();
        }
        std::exception_ptr error;
        try {
            job.work();
        } catch (...) {
            error = std::current_exception();
        }
        job.work = nullptr;  // lets go of its buffers before anyone hears that it is over
        job.done(error);
    }
}

void Device::synchronize() { check_cuda(cudaStreamSynchronize(stream_), "wait for the device"); }

void Device::trim() { cudaMemPoolTrimTo(pool_, 0); }

}  // namespace intflash
