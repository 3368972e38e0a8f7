// Which kernels answer an attention call.
#pragma once
#include "attention.h"

namespace intflash {

/** @returns one of the kernels; kPortable also for precisions of which there is only one. @throws Failure where one was named that can't do it */
KernelChoice choose_kernel(const DeviceFacts& facts, const AttentionRequest& request);

}  // namespace intflash
