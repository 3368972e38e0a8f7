// How rows of bytes lie in shared memory, so that eight rows read at one column touch all banks once.
#pragma once
#include "host_device.h"

namespace intflash {

/** Of a row of `row_bytes` (32, 64, or a multiple of 128): XOR this with the 16-byte chunk index. Every eight rows the same. */
INT_FLASH_BOTH constexpr int row_swizzle(int row, int row_bytes) { return row_bytes == 32 ? row >> 2 & 1 : row_bytes == 64 ? row >> 1 & 3 : row & 7; }

}  // namespace intflash
