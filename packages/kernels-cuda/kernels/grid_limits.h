// CUDA's limits of a grid.
#pragma once

namespace intflash {

constexpr int kMaxGridY = 65535, kMaxGridZ = 65535;

}  // namespace intflash
