#include "graph.h"

#include <utility>

namespace intflash {

Graph::Graph(std::shared_ptr<Device> device, Recording recording) : device_(std::move(device)), recording_(std::move(recording)) {
    // A stream of its own: memory is freed in the order of the other streams from any thread, and such a free must not be captured.
    cudaStream_t stream = nullptr;
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "create a stream");
    try {
        capture(stream);
        check_cuda(cudaEventCreate(&start_), "create an event");
        check_cuda(cudaEventCreate(&end_), "create an event");
    } catch (...) {
        cudaStreamDestroy(stream);
        release();
        throw;
    }
    cudaStreamDestroy(stream);
}

Graph::~Graph() {
    device_->use();
    release();
}

void Graph::release() {
    if (start_ != nullptr) cudaEventDestroy(start_);
    if (end_ != nullptr) cudaEventDestroy(end_);
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
}

void Graph::capture(cudaStream_t stream) {
    // Relaxed: other threads go on allocating and waiting meanwhile, on other streams.
    check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "begin a capture");
    cudaGraph_t graph = nullptr;
    try {
        recording_.sheet->clear(stream);
        for (const auto& operation : recording_.operations) operation->launch(stream, {});
    } catch (...) {
        cudaStreamEndCapture(stream, &graph);
        if (graph != nullptr) cudaGraphDestroy(graph);
        cudaGetLastError();
        throw;
    }
    check_cuda(cudaStreamEndCapture(stream, &graph), "end a capture");
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(status, "instantiate a graph");
}

float Graph::replay(Stream& stream, int times, const AbortFlag& abort) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const cudaStream_t target = stream.handle();
    check_cuda(cudaEventRecord(start_, target), "record an event");
    for (int i = 0; i < times; ++i) {
        abort.check();
        check_cuda(cudaGraphLaunch(executable_, target), "launch a graph");
        if (abort.raised && i + 1 < times) stream.synchronize();  // or the signal would find everything launched already
    }
    check_cuda(cudaEventRecord(end_, target), "record an event");
    recording_.sheet->collect(target);
    stream.synchronize();
    for (const auto& operation : recording_.operations) operation->judge();
    float ms = 0;
    check_cuda(cudaEventElapsedTime(&ms, start_, end_), "read an event");
    return ms;
}

}  // namespace intflash
