// A CUDA stream, and the one thread that works on it. Everything a caller asks for becomes a job in a queue; jobs run in order and
// leave the stream idle, so memory written by one is there for whatever follows. The event loop never waits for the GPU, and libuv's
// pool is not used.
#pragma once
#include <cuda_runtime_api.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "device.h"

namespace intflash {

class Buffer;

class Stream : public std::enable_shared_from_this<Stream> {
public:
    using Work = std::function<void()>;
    using Done = std::function<void(std::exception_ptr)>;  // called on the worker thread
    enum class Queued { kRun, kDrop, kAbandon };  // what becomes of jobs not begun: run, told that they were dropped, left lying

    /** Whoever opens a stream must end it with `stop` and `join`: its thread keeps it alive. @throws Failure */
    static std::shared_ptr<Stream> open(std::shared_ptr<Device> device);
    ~Stream();
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    /** Queues `work`. After `stop`, `done` gets ERR_DISPOSED at once; on a lost device, ERR_DEVICE_LOST. */
    void submit(Work work, Done done);
    /** Queues `work` and blocks the calling thread until it has run. @throws what `work` throws */
    void run(const Work& work);
    /** No new jobs; those in the queue run, or fail with ERR_DISPOSED. Any thread, any number of times. */
    void stop(Queued queued);
    /** Waits for the worker to end. */
    void join();

    /** On the worker thread: waits for everything launched so far. */
    void synchronize() const;
    /** On the worker thread. */
    std::shared_ptr<Buffer> allocate(size_t bytes);

    cudaStream_t handle() const { return stream_.get(); }
    Device& device() const { return *device_; }

private:
    struct Job {
        Work work;
        Done done;
    };

    explicit Stream(std::shared_ptr<Device> device);
    void work_loop();
    void run_job(Job& job);

    const std::shared_ptr<Device> device_;
    const SharedStream stream_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Job> queue_;
    bool stopping_ = false;
    std::mutex join_mutex_;
    std::thread worker_;
};

}  // namespace intflash
