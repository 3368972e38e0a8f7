// Every weight that decoding may be given, 2^-100 to the largest float32: what each instruction set's read_weights makes of it against log2_weight of
// arithmetic.h and a division, bit for bit. Prints one line an instruction set, with the weights that were unsure, and exits 1 on any difference.
//   test/weights-harness.sh
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "kernels/simd/avx2_weights.h"
#include "kernels/simd/avx512_weights.h"

using namespace int_flash;

namespace {

constexpr int kAtOnce = 32, kThreads = 2;

struct Found {
    int64_t weights = 0, differ = 0, unsure = 0;  // batches that differ
};

void note_unsure(const float* given, Found& found) {
    for (int i = 0; i < kAtOnce; i += 8) found.unsure += __builtin_popcount(Avx512Weights::log2_of_8(Avx512Weights::read_8(given + i)).unsure);
}

template <class Weights, bool kUnsure>
Found try_bits(uint32_t from, uint32_t to) {
    Found found;
    float given[kAtOnce], inverse[kAtOnce], tau[kAtOnce];
    uint32_t bits[kAtOnce];
    for (uint32_t first = from; first < to; first += kAtOnce) {
        for (int i = 0; i < kAtOnce; i++) bits[i] = first + i;
        memcpy(given, bits, sizeof given);
        Weights::read_weights(given, inverse, tau);
        float expected_tau[kAtOnce], expected_inverse[kAtOnce];
        for (int i = 0; i < kAtOnce; i++) expected_tau[i] = log2_weight(given[i]), expected_inverse[i] = 1.0f / given[i];
        found.weights += kAtOnce;
        if (memcmp(tau, expected_tau, sizeof tau) != 0 || memcmp(inverse, expected_inverse, sizeof inverse) != 0) found.differ++;
        if (kUnsure) note_unsure(given, found);
    }
    return found;
}

template <class Weights, bool kUnsure>
int64_t try_all(const char* isa) {
    const uint32_t least = bits_of(kMinGivenWeight), end = 0x7f800000u;  // both whole batches apart
    std::vector<Found> found(kThreads);
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; t++)
        threads.emplace_back([&found, t, least, end] {
            const uint32_t batches = (end - least) / kAtOnce;
            const auto at = [=](int part) { return least + static_cast<uint32_t>(static_cast<uint64_t>(batches) * part / kThreads) * kAtOnce; };
            found[t] = try_bits<Weights, kUnsure>(at(t), at(t + 1));
        });
    for (std::thread& thread : threads) thread.join();
    Found all;
    for (const Found& one : found) all.weights += one.weights, all.differ += one.differ, all.unsure += one.unsure;
    printf("%s: %lld cases against arithmetic.h, %lld differ\n", isa, static_cast<long long>(all.weights), static_cast<long long>(all.differ));
    if (kUnsure) printf("%s: %lld unsure\n", isa, static_cast<long long>(all.unsure));
    return all.differ;
}

}  // namespace

int main() {
    const int64_t differ = try_all<Avx2Weights, false>("avx2") + try_all<Avx512Weights, true>("avx512");
    return differ == 0 ? 0 : 1;
}
