// One GPU, one stream, and the one thread that works on it. Everything a caller asks for becomes a job in a queue; jobs run in
// order, so memory written by one is there for the next. The event loop never waits for the GPU, and libuv's pool is not used.
#pragma once
#include <cuda_runtime_api.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace intflash {

class Device;

/** Device memory. Freed in stream order, so a job that was queued before the last owner let go may still use it. */
class Buffer {
public:
    Buffer(std::shared_ptr<Device> device, size_t bytes);
    ~Buffer();
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    template <class T = void> T* as() const { return static_cast<T*>(pointer_); }
    size_t bytes() const { return bytes_; }
    const std::shared_ptr<Device>& device() const { return device_; }

private:
    std::shared_ptr<Device> device_;
    void* pointer_ = nullptr;
    size_t bytes_;
};

struct DeviceFacts {
    char name[256];
    int major, minor, processors, shared_bytes_per_block;
    int64_t total_bytes;
};

class Device : public std::enable_shared_from_this<Device> {
public:
    using Work = std::function<void()>;
    using Done = std::function<void(std::exception_ptr)>;  // called on the worker thread

    /** @throws Failure */
    static std::shared_ptr<Device> open(int ordinal);
    ~Device();

    /** Queues `work`; after shutdown, `done` gets ERR_DISPOSED at once. */
    void submit(Work work, Done done);
    /** Queues `work` and blocks the calling thread until it has run. @throws what `work` throws */
    void run(const Work& work);
    /** Lets the jobs in the queue finish, then stops the worker. Twice is a no-op. */
    void shutdown();

    /** On the worker thread: waits for everything launched so far. */
    void synchronize();
    std::shared_ptr<Buffer> allocate(size_t bytes) { return std::make_shared<Buffer>(shared_from_this(), bytes); }
    /** Gives cached memory back to the driver. */
    void trim();

    cudaStream_t stream() const { return stream_; }
    const DeviceFacts& facts() const { return facts_; }
    int ordinal() const { return ordinal_; }
    int64_t live_bytes() const { return live_bytes_.load(); }

private:
    friend class Buffer;
    Device() = default;
    void start(int ordinal);
    void work_loop();

    int ordinal_ = 0;
    DeviceFacts facts_{};
    cudaStream_t stream_ = nullptr;
    cudaMemPool_t pool_ = nullptr;
    std::atomic<int64_t> live_bytes_{0};

    struct Job {
        Work work;
        Done done;
    };
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Job> queue_;
    bool stopping_ = false;
    std::thread worker_;
    std::mutex join_mutex_;
};

}  // namespace intflash
