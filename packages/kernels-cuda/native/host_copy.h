// Copies between the device and memory of the host that need not be page-locked.
#pragma once
#include <cstddef>

#include "stream.h"

namespace intflash {

/**
 * While CUDA copies from or to memory that is not page-locked, and while such a copy waits for kernels before it, no thread opens a
 * stream or makes an event. So these wait first, and copy piece by piece, which lets others come between. On the worker thread of
 * `stream`; it is idle afterwards. @throws Failure
 */
void copy_to_host(const Stream& stream, void* to, const void* from, size_t bytes);
void copy_from_host(const Stream& stream, void* to, const void* from, size_t bytes);

}  // namespace intflash
