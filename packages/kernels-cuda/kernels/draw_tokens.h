// Drawing the next token from logits, by the rules of packages/llm's sampler: temperature, then top-k, top-p and min-p.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace intflash {

struct DrawRules {
    double temperature;  // 0: the first of the highest logits
    double top_p;        // 1: all
    double min_p;        // 0: all
    double uniform;      // in [0, 1): where the drawn token lies among the probabilities of what the rules leave
    int32_t top_k;       // 0: all
    int32_t vocabulary;  // ids below it may be drawn
};

/** What `drawn` says instead of a token. */
enum Undrawn : int32_t {
    kTooMany = -1,    // the rules leave more than kMostCandidates to be sorted: draw_on_host
    kBadLogits = -2  // the highest logit is not finite
};
constexpr int kMostCandidates = 4096;

/**
 * A block a row. Where top-k or top-p cuts, the most probable come first (ties by id), else ids in order; weights are e^x in float64, and
 * only sums over the whole vocabulary are made of float32 exponentials (relative error 1e-7).
 *
 * @param logits [rows, stride]
 * @param rules  [rows], on the device
 * @param drawn  [rows]
 */
cudaError_t launch_draw(const float* logits, int64_t stride, const DrawRules* rules, int rows, int32_t* drawn, cudaStream_t stream);

}  // namespace intflash
