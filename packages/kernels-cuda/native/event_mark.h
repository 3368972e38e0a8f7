// A point in a stream's work that others can wait for and measure from.
#pragma once
#include <condition_variable>
#include <memory>
#include <mutex>

#include "stream.h"

namespace intflash {

/**
 * Made on the JS thread, recorded by a job of its stream. A job that waits for a mark may reach the front of its queue first, so it waits
 * on the host until the mark is there: a mark's job is queued before any job that waits for it, so these waits cannot form a circle.
 */
class EventMark {
public:
    explicit EventMark(std::shared_ptr<Stream> home) : home_(std::move(home)) {}
    ~EventMark();
    EventMark(const EventMark&) = delete;
    EventMark& operator=(const EventMark&) = delete;

    /** On the home stream's worker. */
    void record();
    /** The recording job failed or was dropped; whoever waits is told. */
    void fail();
    /** On the worker of `stream`: what that stream does next waits, on the GPU, for the mark. @throws Failure */
    void hold_back(const Stream& stream);
    /** On any worker: blocks until the GPU has come by. @throws Failure */
    void wait();
    /** Milliseconds from `start` to this mark; waits for both. */
    float since(EventMark& start);

    Stream& home() const { return *home_; }

private:
    void await_recorded();

    const std::shared_ptr<Stream> home_;
    cudaEvent_t event_ = nullptr;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool recorded_ = false, failed_ = false;
};

}  // namespace intflash
