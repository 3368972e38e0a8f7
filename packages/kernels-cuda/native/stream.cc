#include "stream.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "buffer.h"
#include "failure.h"

namespace intflash {
namespace {

/** The streams of all environments. Never destroyed: nothing outlives the end of the process. */
struct Registry {
    std::mutex mutex;
    std::vector<std::weak_ptr<Stream>> streams;
};
Registry& registry() {
    static auto* const all = new Registry;
    return *all;
}

/** process.exit() runs no clean-up hooks of the environment, but CUDA goes all the same: its calls must be over by then. */
void stop_all() {
    std::vector<std::shared_ptr<Stream>> streams;
    {
        const std::lock_guard<std::mutex> lock(registry().mutex);
        for (const auto& weak : registry().streams)
            if (auto stream = weak.lock()) streams.push_back(std::move(stream));
    }
    for (const auto& stream : streams) stream->stop(Stream::Queued::kAbandon);
    for (const auto& stream : streams) stream->join();
    new std::vector<std::shared_ptr<Stream>>(std::move(streams));  // left to the system
}

void keep_track(const std::shared_ptr<Stream>& fresh) {
    const std::lock_guard<std::mutex> lock(registry().mutex);
    auto& streams = registry().streams;
    streams.erase(std::remove_if(streams.begin(), streams.end(), [](const auto& weak) { return weak.expired(); }), streams.end());
    streams.push_back(fresh);
    // Handlers run last first: this one, registered once CUDA has been used, runs before CUDA's.
    static const int registered = std::atexit(stop_all);
    static_cast<void>(registered);
}

std::exception_ptr disposed() { return std::make_exception_ptr(Failure("ERR_DISPOSED", "Expected an open CUDA stream, got one that was disposed")); }

}  // namespace

std::shared_ptr<Stream> Stream::open(std::shared_ptr<Device> device) {
    std::shared_ptr<Stream> stream(new Stream(std::move(device)));
    keep_track(stream);
    stream->worker_ = std::thread([stream] { stream->work_loop(); });
    return stream;
}

Stream::Stream(std::shared_ptr<Device> device) : device_(std::move(device)), stream_(device_->create_stream()) {}

Stream::~Stream() {
    stop(Queued::kDrop);
    join();
}

void Stream::submit(Work work, Done done) {
    if (device_->lost()) {
        done(std::make_exception_ptr(Failure("ERR_DEVICE_LOST", "Expected a device that answers, got one whose context was lost by an earlier fault")));
        return;
    }
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!stopping_) {
            queue_.push_back({std::move(work), std::move(done)});
            changed_.notify_all();
            return;
        }
    }
    done(disposed());
}

void Stream::run(const Work& work) {
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

void Stream::stop(Queued queued) {
    std::deque<Job> dropped;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
        if (queued != Queued::kRun) dropped.swap(queue_);
        changed_.notify_all();
    }
    if (queued == Queued::kAbandon) {
        new std::deque<Job>(std::move(dropped));  // left to the system: nobody is there to hear of it
        return;
    }
    for (Job& job : dropped) {
        job.work = nullptr;
        job.done(disposed());
    }
}

void Stream::join() {
    const std::lock_guard<std::mutex> lock(join_mutex_);
    if (!worker_.joinable()) return;
    if (worker_.get_id() == std::this_thread::get_id()) worker_.detach();  // the thread held the last reference
    else worker_.join();
}

void Stream::work_loop() {
    device_->use();
    for (;;) {
        Job job;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
            if (queue_.empty()) return;
            job = std::move(queue_.front());
            queue_.pop_front();
        }
        run_job(job);
    }
}

void Stream::run_job(Job& job) {
    std::exception_ptr error;
    try {
        job.work();
    } catch (...) {
        error = std::current_exception();
        cudaStreamSynchronize(handle());  // what it launched may still read memory that it holds
        cudaGetLastError();
    }
    if (error) {
        try {
            std::rethrow_exception(error);
        } catch (const Failure& failure) {
            if (std::strcmp(failure.code, "ERR_DEVICE_LOST") == 0) device_->lose();
        } catch (...) {
        }
    }
    job.work = nullptr;  // lets go of its buffers before anyone hears that it is over
    job.done(error);
}

void Stream::synchronize() const { check_cuda(cudaStreamSynchronize(handle()), "wait for the device"); }

std::shared_ptr<Buffer> Stream::allocate(size_t bytes) { return std::make_shared<Buffer>(shared_from_this(), bytes); }

}  // namespace intflash
