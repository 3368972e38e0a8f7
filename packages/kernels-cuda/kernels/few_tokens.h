// Linear layers of so few tokens that reading the weights is all that counts.
#pragma once
#include <type_traits>

namespace intflash {

/** Up to so many tokens weights are read once, straight into registers. */
constexpr int kFewTokens = 8;

/** Calls f with the least of 1, 4 and kFewTokens that holds `tokens`: what kernels are compiled for. */
template <class F> void with_few_tokens(int tokens, F f) {
    if (tokens == 1) f(std::integral_constant<int, 1>());
    else if (tokens <= 4) f(std::integral_constant<int, 4>());
    else f(std::integral_constant<int, kFewTokens>());
}

}  // namespace intflash
