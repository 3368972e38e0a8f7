// Operations recorded once and launched as one CUDA graph.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "operation.h"
#include "step_graph.h"

namespace intflash {

/** What has been recorded so far. It belongs to one stream's worker thread. */
struct Recording {
    static constexpr int kMaxOperations = 4096;
    explicit Recording(Stream& home) : sheet(std::make_shared<FindingsSheet>(home, kMaxOperations)) {}

    std::shared_ptr<FindingsSheet> sheet;
    std::vector<std::shared_ptr<const Operation>> operations;
};

/** Owns the operations, and with them all memory that their kernels touch. */
class Graph {
public:
    /** On a worker thread. @throws Failure */
    Graph(std::shared_ptr<Device> device, Recording recording);
    ~Graph();
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    /** Launches `times` times in a row, waits and judges; returns the GPU's milliseconds. One replay at a time. @throws Failure, Aborted */
    float replay(Stream& stream, int times, const AbortFlag& abort);

private:
    const std::shared_ptr<Device> device_;
    Recording recording_;
    StepGraph executable_;
    cudaEvent_t start_ = nullptr, end_ = nullptr;
    std::mutex mutex_;
};

}  // namespace intflash
