// Room for numbers that grow by one now and then.
#pragma once

namespace intflash {

/** The least power of two from `least` on, so that memory and graphs need not follow each time. */
inline int power_of_two(int least) {
    int power = 1;
    while (power < least) power *= 2;
    return power;
}

}  // namespace intflash
