#include "event_mark.h"

#include "failure.h"

namespace intflash {

EventMark::~EventMark() {
    if (event_ == nullptr) return;
    home_->device().use();
    cudaEventDestroy(event_);
}

void EventMark::record() {
    check_cuda(cudaEventCreate(&event_), "create an event");
    check_cuda(cudaEventRecord(event_, home_->handle()), "record an event");
    const std::lock_guard<std::mutex> lock(mutex_);
    recorded_ = true;
    changed_.notify_all();
}

void EventMark::fail() {
    const std::lock_guard<std::mutex> lock(mutex_);
    failed_ = !recorded_;
    changed_.notify_all();
}

void EventMark::await_recorded() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return recorded_ || failed_; });
    if (failed_) throw Failure("ERR_CUDA", "Expected a recorded event, got one whose stream failed or was disposed before it came to it");
}

void EventMark::hold_back(const Stream& stream) {
    await_recorded();
    check_cuda(cudaStreamWaitEvent(stream.handle(), event_, 0), "wait for an event");
}

void EventMark::wait() {
    await_recorded();
    check_cuda(cudaEventSynchronize(event_), "wait for an event");
}

float EventMark::since(EventMark& start) {
    wait();
    start.wait();
    float ms = 0;
    check_cuda(cudaEventElapsedTime(&ms, start.event_, event_), "read an event");
    return ms;
}

}  // namespace intflash
