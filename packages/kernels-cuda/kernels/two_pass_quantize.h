// Quantizers that need something of all tokens before they can write the first code: channel means (smooth-K), a scale a channel, a scale for everything.
// The same bits as @int-flash/quant. Compiled without fused multiply-add other than what the code spells out.
#pragma once
#include <cuda_runtime_api.h>

#include "operand.h"

namespace intflash {

struct Findings;

/** What is found in the first pass. Means are subtracted, then every token has a scale of its own. */
enum class Statistic : int32_t { kMeans, kChannelMaxima, kMaximum };

struct TwoPassRequest {
    Operand tensor;  // [batch][heads][tokens] rows of floats
    int32_t batch, tokens;
    int32_t padded;  // row length of `codes`; zeros past the tensor's own
    Statistic statistic;
    float levels;    // codes lie in [-levels, levels]: 127, or 7 with kMeans
    int8_t* codes;   // [batch][heads][tokens][padded]
    float* scales;   // [batch][heads][tokens] with kMeans, [batch][heads][dim] with kChannelMaxima, else one
    float* means;    // [batch][heads][dim], of kMeans alone
    Findings* findings;  // bad_query: NaN or Infinity; large_query: a number minus its mean is infinite
    // The workspace, laid out by place_two_pass:
    uint32_t* arrivals;  // [batch][heads] blocks that have done their part, twice with kMeans: then whether the means are there; one with kMaximum
    uint32_t* maxima;    // bits of magnitudes: [batch][heads][padded] with kChannelMaxima, one with kMaximum
    double* sums;        // [batch][heads][tile of 128 tokens][padded], of kMeans
    size_t cleared_bytes;  // at the workspace's start, by each launch
};

/** Of the workspace. */
size_t two_pass_bytes(const TwoPassRequest& request);
/** Lays it out from `memory` (16-byte aligned) on. */
void place_two_pass(TwoPassRequest& request, uint8_t* memory);

/** Whether launch_two_pass takes it: of 2^30 heads, the most there are, there would be more blocks than a launch has. Looks at counts, strides and type alone. */
bool fits_two_pass(const TwoPassRequest& request);

/** A fill and a kernel. An empty tensor has the scales and means that quant gives it. */
cudaError_t launch_two_pass(const TwoPassRequest& request, cudaStream_t stream);

}  // namespace intflash
