#include "device.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <utility>

#include "cublas_lt.h"
#include "failure.h"
#include "running_code.h"

namespace intflash {
namespace {

constexpr int kMaxDevices = 64;
std::array<std::atomic<bool>, kMaxDevices> lost_contexts{};  // of this process, by ordinal

}  // namespace

std::shared_ptr<Device> Device::open(int ordinal) {
    if (ordinal < 0 || ordinal >= kMaxDevices) throw Failure("ERR_ARG_RANGE", "Expected a device ordinal in [0, 63], got " + std::to_string(ordinal));
    std::shared_ptr<Device> device(new Device());
    device->ordinal_ = ordinal;
    if (device->lost()) throw Failure("ERR_DEVICE_LOST", "Expected a device that answers, got one whose context was lost in this process");
    check_cuda(cudaSetDevice(ordinal), "select the device");
    cudaDeviceProp properties{};
    check_cuda(cudaGetDeviceProperties(&properties, ordinal), "read the device's properties");
    DeviceFacts& facts = device->facts_;
    std::snprintf(facts.name, sizeof facts.name, "%s", properties.name);
    facts.major = properties.major;
    facts.minor = properties.minor;
    facts.processors = properties.multiProcessorCount;
    facts.shared_bytes_per_block = static_cast<int>(properties.sharedMemPerBlockOptin);
    facts.l2_bytes = properties.l2CacheSize;
    facts.total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
    facts.has_hopper_kernels = ask_running_code().is_sm90a;
    cudaMemPoolProps pool{};
    pool.allocType = cudaMemAllocationTypePinned;
    pool.location.type = cudaMemLocationTypeDevice;
    pool.location.id = ordinal;
    check_cuda(cudaMemPoolCreate(&device->pool_, &pool), "create a memory pool");
    uint64_t keep = UINT64_MAX;  // freed memory stays in the pool until trim()
    check_cuda(cudaMemPoolSetAttribute(device->pool_, cudaMemPoolAttrReleaseThreshold, &keep), "configure the memory pool");
    return device;
}

Device::Device() = default;

Device::~Device() {
    use();
    cublas_lt_.reset();
    if (pool_ != nullptr) cudaMemPoolDestroy(pool_);
}

void Device::use() const { cudaSetDevice(ordinal_); }

void Device::trim() const { cudaMemPoolTrimTo(pool_, 0); }

SharedStream Device::create_stream() {
    use();
    cudaStream_t stream = nullptr;
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "create a stream");
    SharedStream shared(stream, [ordinal = ordinal_](cudaStream_t gone) {  // on any thread
        cudaSetDevice(ordinal);
        cudaStreamSynchronize(gone);
        cudaStreamDestroy(gone);
    });
    const std::lock_guard<std::mutex> lock(mutex_);
    streams_.erase(std::remove_if(streams_.begin(), streams_.end(), [](const auto& weak) { return weak.expired(); }), streams_.end());
    streams_.push_back(shared);
    return shared;
}

void Device::synchronize_streams() {
    std::vector<SharedStream> streams;  // kept alive while they are waited for
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (const auto& weak : streams_)
            if (auto stream = weak.lock()) streams.push_back(std::move(stream));
    }
    for (const SharedStream& stream : streams) check_cuda(cudaStreamSynchronize(stream.get()), "wait for the device");
}

CublasLt* Device::cublas_lt() {
    std::call_once(cublas_lt_asked_, [this] { cublas_lt_ = CublasLt::open(); });
    return cublas_lt_.get();
}

void Device::lose() const { lost_contexts[static_cast<size_t>(ordinal_)] = true; }

bool Device::lost() const { return lost_contexts[static_cast<size_t>(ordinal_)]; }

}  // namespace intflash
