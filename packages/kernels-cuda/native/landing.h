// Page-locked memory for what the host reads of a kernel's results: words that a copy behind the kernel leaves there.
#pragma once
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace intflash {

class Device;

/** A device's: what was given back serves again, since CUDA gives such memory out in milliseconds and takes it back only once the GPU rests. */
class LandingPool {
public:
    LandingPool() = default;
    ~LandingPool();
    LandingPool(const LandingPool&) = delete;
    LandingPool& operator=(const LandingPool&) = delete;

    /** `bytes` or more, and how many. @throws Failure */
    std::pair<void*, size_t> take(size_t bytes);
    void give_back(void* memory, size_t bytes) noexcept;

private:
    std::mutex mutex_;
    std::vector<std::pair<void*, size_t>> idle_;
    size_t made_ = 0;
};

/**
 * A copy to memory that is not page-locked keeps all others from opening streams and making events for as long as it waits for the
 * kernels before it, and takes longer: results of a kernel land here, large ones go by copy_to_host (host_copy.h).
 */
class Landing {
public:
    /** On a worker thread. @throws Failure */
    Landing(Device& device, size_t bytes);
    ~Landing();
    Landing(const Landing&) = delete;
    Landing& operator=(const Landing&) = delete;

    template <class T = void> T* as() const { return static_cast<T*>(memory_.first); }
    size_t bytes() const { return memory_.second; }

private:
    const std::shared_ptr<Device> device_;
    const std::pair<void*, size_t> memory_;
    const int errors_ = std::uncaught_exceptions();
};

}  // namespace intflash
