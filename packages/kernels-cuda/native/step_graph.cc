#include "step_graph.h"

#include "failure.h"

namespace intflash {
namespace {

cudaGraph_t capture(cudaStream_t stream, const std::function<void(cudaStream_t)>& launch) {
    // Relaxed: other threads go on allocating and waiting meanwhile, on other streams.
    check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "begin a capture");
    cudaGraph_t graph = nullptr;
    try {
        launch(stream);
    } catch (...) {
        cudaStreamEndCapture(stream, &graph);
        if (graph != nullptr) cudaGraphDestroy(graph);
        cudaGetLastError();
        throw;
    }
    check_cuda(cudaStreamEndCapture(stream, &graph), "end a capture");
    return graph;
}

}  // namespace

StepGraph::StepGraph(const std::function<void(cudaStream_t)>& launch) {
    // A stream of its own: memory is freed in the order of the others from any thread, and such a free must not be recorded.
    cudaStream_t stream = nullptr;
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "create a stream");
    cudaGraph_t graph = nullptr;
    try {
        graph = capture(stream, launch);
    } catch (...) {
        cudaStreamDestroy(stream);
        throw;
    }
    cudaStreamDestroy(stream);
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(status, "instantiate a graph");
}

StepGraph::~StepGraph() { cudaGraphExecDestroy(executable_); }

void StepGraph::replay(cudaStream_t stream) const { check_cuda(cudaGraphLaunch(executable_, stream), "launch a graph"); }

}  // namespace intflash
