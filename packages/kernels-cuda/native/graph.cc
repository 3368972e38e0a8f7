#include "graph.h"

#include <utility>

namespace intflash {

Graph::Graph(std::shared_ptr<Device> device, Recording recording)
    : device_(std::move(device)), recording_(std::move(recording)), executable_([this](cudaStream_t stream) {
          recording_.sheet->clear(stream);
          for (const auto& operation : recording_.operations) operation->launch(stream, {});
      }) {
    check_cuda(cudaEventCreate(&start_), "create an event");
    if (const cudaError_t status = cudaEventCreate(&end_)) {
        cudaEventDestroy(start_);
        check_cuda(status, "create an event");
    }
}

Graph::~Graph() {
    device_->use();
    cudaEventDestroy(start_);
    cudaEventDestroy(end_);
}

float Graph::replay(Stream& stream, int times, const AbortFlag& abort) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const cudaStream_t target = stream.handle();
    check_cuda(cudaEventRecord(start_, target), "record an event");
    for (int i = 0; i < times; ++i) {
        abort.check();
        executable_.replay(target);
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
