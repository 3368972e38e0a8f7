#include "stream.h"

#include <cstring>
#include <utility>

#include "buffer.h"
#include "failure.h"

namespace intflash {
namespace {

std::exception_ptr disposed() { return std::make_exception_ptr(Failure("ERR_DISPOSED", "Expected an open CUDA stream, got one that was disposed")); }

}  // namespace

std::shared_ptr<Stream> Stream::open(std::shared_ptr<Device> device) {
    std::shared_ptr<Stream> stream(new Stream(std::move(device)));
    stream->worker_ = std::thread([stream] { stream->work_loop(); });
    return stream;
}

Stream::Stream(std::shared_ptr<Device> device) : device_(std::move(device)) {
    device_->use();
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "create a stream");
    device_->add_stream(stream_);
}

Stream::~Stream() {
    stop(Queued::kDrop);
    join();
    device_->remove_stream(stream_);
    device_->use();
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
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
        if (queued == Queued::kDrop) dropped.swap(queue_);
        changed_.notify_all();
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
        cudaStreamSynchronize(stream_);  // what it launched may still read memory that it holds
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

void Stream::synchronize() const { check_cuda(cudaStreamSynchronize(stream_), "wait for the device"); }

std::shared_ptr<Buffer> Stream::allocate(size_t bytes) { return std::make_shared<Buffer>(shared_from_this(), bytes); }

}  // namespace intflash
