// What can be run now or recorded into a graph: memory is planned when an operation is made, launches only launch.
#pragma once
#include <cuda_runtime_api.h>

#include "failure.h"
#include "findings_sheet.h"
#include "stream.h"

namespace intflash {

class Operation {
public:
    Operation() = default;
    virtual ~Operation() = default;
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;

    /** Puts the kernels into `stream` and returns. Allocates nothing and waits for nothing, so a stream under capture will do. @throws Failure, Aborted */
    virtual void launch(cudaStream_t stream, const AbortFlag& abort) const = 0;
    /** What the findings of the last launch mean, once they are collected. @throws Failure */
    virtual void judge() const {}
};

/** Launches, waits and judges. On the worker thread of `stream`. */
void run_now(Stream& stream, const Operation& operation, FindingsSheet& sheet, const AbortFlag& abort);

}  // namespace intflash
