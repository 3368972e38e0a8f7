// How many pieces a count makes.
#pragma once
#include <cstdint>

namespace intflash {

/** count / by, rounded up; neither is negative, and the quotient has 31 bits. */
constexpr int ceil_div(int64_t count, int64_t by) { return static_cast<int>((count + by - 1) / by); }

}  // namespace intflash
