// What a core can do at most with this instruction set: the yardsticks of `npm run bench`. Nothing else calls them.
#pragma once
#include "row_steps.h"

namespace int_flash {
namespace {

// Dot products on registers alone, `rounds` times 12 of them that do not wait for one another; returns their multiplications and additions.
double dot_peak(int64_t rounds, uint32_t* result) {
    const uint32_t word = 0x01020304u;
    const Simd::Ints a = Simd::splat_int(0x05060708), b = Simd::spread(&word);
    // Different from the start: equal ones the compiler would compute once.
    Simd::Ints s0 = Simd::splat_int(0), s1 = Simd::splat_int(1), s2 = Simd::splat_int(2), s3 = Simd::splat_int(3);
    Simd::Ints s4 = Simd::splat_int(4), s5 = Simd::splat_int(5), s6 = Simd::splat_int(6), s7 = Simd::splat_int(7);
    Simd::Ints s8 = Simd::splat_int(8), s9 = Simd::splat_int(9), s10 = Simd::splat_int(10), s11 = Simd::splat_int(11);
    INT_FLASH_UNROLL(1)
    for (int64_t i = 0; i < rounds; i++) {
        s0 = Simd::dot_scores(s0, a, b), s1 = Simd::dot_scores(s1, a, b), s2 = Simd::dot_scores(s2, a, b), s3 = Simd::dot_scores(s3, a, b);
        s4 = Simd::dot_scores(s4, a, b), s5 = Simd::dot_scores(s5, a, b), s6 = Simd::dot_scores(s6, a, b), s7 = Simd::dot_scores(s7, a, b);
        s8 = Simd::dot_scores(s8, a, b), s9 = Simd::dot_scores(s9, a, b), s10 = Simd::dot_scores(s10, a, b), s11 = Simd::dot_scores(s11, a, b);
    }
    alignas(64) int32_t lanes[Simd::kLanes];
    uint32_t total = 0;
    const Simd::Ints sums[] = {s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11};
    for (const Simd::Ints& sum : sums) {
        Simd::store_ints(lanes, sum);
        for (const int32_t lane : lanes) total += static_cast<uint32_t>(lane);
    }
    *result = total;
    return 2.0 * 12 * Simd::kLanes * kGranule * static_cast<double>(rounds);
}

// Reads whole cache lines of [data, data + bytes), as fast as loads go.
uint32_t read_bytes(const void* data, int64_t bytes) {
    constexpr int64_t kStep = 8 * Simd::kLanes;  // words
    const uint32_t* words = static_cast<const uint32_t*>(data);
    Simd::Ints s0 = Simd::zero_ints(), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
    const auto add = [&](Simd::Ints sum, int64_t at) INT_FLASH_LAMBDA {
        const Simd::Ints found = Simd::load_words(words + at);
        return Simd::dot_scores(sum, found, found);
    };
    for (int64_t i = 0; i + kStep <= bytes / 4; i += kStep) {
        s0 = add(s0, i), s1 = add(s1, i + Simd::kLanes), s2 = add(s2, i + 2 * Simd::kLanes), s3 = add(s3, i + 3 * Simd::kLanes);
        s4 = add(s4, i + 4 * Simd::kLanes), s5 = add(s5, i + 5 * Simd::kLanes), s6 = add(s6, i + 6 * Simd::kLanes), s7 = add(s7, i + 7 * Simd::kLanes);
    }
    alignas(64) int32_t lanes[Simd::kLanes];
    uint32_t total = 0;
    const Simd::Ints sums[] = {s0, s1, s2, s3, s4, s5, s6, s7};
    for (const Simd::Ints& sum : sums) {
        Simd::store_ints(lanes, sum);
        for (const int32_t lane : lanes) total += static_cast<uint32_t>(lane);
    }
    return total;
}

}  // namespace
}  // namespace int_flash
