// How many threads a row of floats gets.
#pragma once
#include <algorithm>

namespace intflash {

constexpr int kMostRowThreads = 1024;

/** Four numbers each, so that a lone row is over soon. They depend on its width alone, as the order of sums does. */
inline int threads_for(int width, int most = kMostRowThreads) { return std::clamp((width + 511) / 512 * 128, 128, most); }

}  // namespace intflash
