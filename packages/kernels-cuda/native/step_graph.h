// A decoding step's kernels, recorded once and launched together: on a small model a step is bound by launching.
#pragma once
#include <cuda_runtime_api.h>

#include <functional>

namespace intflash {

class StepGraph {
public:
    /** Records what `launch` puts into the stream it is given. It must allocate nothing and wait for nothing. @throws Failure */
    explicit StepGraph(const std::function<void(cudaStream_t)>& launch);
    ~StepGraph();
    StepGraph(const StepGraph&) = delete;
    StepGraph& operator=(const StepGraph&) = delete;

    void replay(cudaStream_t stream) const;

private:
    cudaGraphExec_t executable_ = nullptr;
};

}  // namespace intflash
