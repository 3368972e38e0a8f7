// See float_flash_fwd.h. One warp a query, keys in tiles of 128 (four a lane for the scores), channels over the lanes for the values.
// Real = float is docs/arithmetic.md, "fp32", to the bit; Real = double is the same walk with exact functions, an oracle. Right and plain;
// the baseline others are judged by.
#include <cuda_runtime.h>

#include "exact_math.cuh"
#include "float_flash_fwd.h"
#include "load_operand.cuh"
#include "tile_layout.h"

namespace intflash {
namespace {

constexpr int kWarps = 8, kKeysPerLane = kTileKeys / 32, kMaxChannelsPerLane = kMaxHeadDim / 32;

// What the page names, each with its own roundings; plain operators would be fused.
__device__ __forceinline__ float product(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double product(double a, double b) { return a * b; }
__device__ __forceinline__ float sum_of(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ double sum_of(double a, double b) { return a + b; }
__device__ __forceinline__ float power_of_2(float y) { return exp2_polynomial(y); }
__device__ __forceinline__ double power_of_2(double y) { return exp2(y); }
__device__ __forceinline__ float tangent(float x) { return static_cast<float>(tanh(static_cast<double>(x))); }
__device__ __forceinline__ double tangent(double x) { return tanh(x); }
template <class Real> __device__ __forceinline__ Real log2_e() { return static_cast<Real>(1.4426950408889634); }

/** The score in log2 units; -infinity exactly when the mask excludes the key. */
template <class Real> __device__ Real score(const FloatForwardArgs& args, Real dot, int64_t mask_at) {
    const ForwardArgs& g = args.geometry;
    Real s = product(dot, static_cast<Real>(g.scale));
    if (g.softcap > 0.f) s = product(static_cast<Real>(g.softcap), tangent(s / static_cast<Real>(g.softcap)));
    if (g.mask.data != nullptr) {
        const Real bias = g.mask.is_float ? static_cast<Real>(static_cast<const float*>(g.mask.data)[mask_at])
                                          : static_cast<const uint8_t*>(g.mask.data)[mask_at] ? Real{0} : -static_cast<Real>(INFINITY);
        if (bias == -INFINITY) return bias;
        s = sum_of(s, bias);
    }
    constexpr Real kLargest = static_cast<Real>(3.4028234663852886e38);  // a mask of -FLT_MAX is no exclusion
    return fmin(fmax(product(s, log2_e<Real>()), -kLargest), kLargest);
}

/** Step 4: key j of the tile into sum j mod 16, in order; the same in lanes l and l + 16. `p` is of key lane + 32 · i. */
template <class Real> __device__ __forceinline__ Real add_keys(Real sum, Real p) {
    const Real other = __shfl_xor_sync(~0u, p, 16);
    const bool lower = threadIdx.x % 32 < 16;
    return sum_of(sum_of(sum, lower ? p : other), lower ? other : p);
}

template <class Real> __device__ __forceinline__ Real fold(Real sum) {
#pragma unroll
    for (int step = 8; step > 0; step /= 2) sum = sum_of(sum, __shfl_xor_sync(~0u, sum, step));
    return sum;
}

template <class Real> __global__ void __launch_bounds__(kWarps * 32) float_flash_fwd(const __grid_constant__ FloatForwardArgs args) {
    __shared__ float q_rows[kWarps][kMaxHeadDim];
    const ForwardArgs& g = args.geometry;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int q_blocks = (g.max_q_len + kWarps - 1) / kWarps;
    const int head = static_cast<int>(blockIdx.x / q_blocks % g.heads), batch = static_cast<int>(blockIdx.x / (static_cast<unsigned>(q_blocks) * g.heads));
    const int64_t row = static_cast<int64_t>(blockIdx.x % q_blocks) * kWarps + warp;
    const Sequence sequence = g.sequences[batch];
    if (row >= sequence.q_len) return;
    const int kv_head = head / (g.heads / g.kv_heads);
    const int64_t query_at = row_offset(args.query, batch, head, sequence.q_start + row);
    for (int d = lane; d < args.query.dim; d += 32) q_rows[warp][d] = load_one(args.query, query_at + d);
    __syncwarp();

    const int64_t diagonal = g.bottom_right ? static_cast<int64_t>(sequence.k_len) - sequence.q_len : 0;
    const int64_t lo = max(row + diagonal - g.window_left, int64_t{0}), hi = min(row + diagonal + g.window_right + 1, static_cast<int64_t>(sequence.k_len));
    const int64_t mask_row = batch * g.mask.batch + head * g.mask.head + row * g.mask.query;

    Real maximum = -INFINITY, sum = 0, out[kMaxChannelsPerLane] = {};
    for (int64_t tile = lo / kTileKeys * kTileKeys; tile < hi; tile += kTileKeys) {
        Real x[kKeysPerLane], top = -INFINITY;
#pragma unroll
        for (int i = 0; i < kKeysPerLane; ++i) {
            const int64_t key = tile + i * 32 + lane;
            x[i] = -INFINITY;
            if (key < lo || key >= hi) continue;
            const int64_t key_at = row_offset(args.key, batch, kv_head, sequence.k_start + key);
            Real dot = 0;
            for (int d = 0; d < args.key.dim; d += kChunk) {
                float k[kChunk];
                load_chunk(k, args.key, key_at + d);
#pragma unroll
                for (int e = 0; e < kChunk; ++e) dot = fma(static_cast<Real>(q_rows[warp][d + e]), static_cast<Real>(k[e]), dot);
            }
            x[i] = score<Real>(args, dot, mask_row + key * g.mask.key);
            top = fmax(top, x[i]);
        }
        for (int step = 16; step > 0; step /= 2) top = fmax(top, __shfl_xor_sync(~0u, top, step));
        if (top == -INFINITY) continue;  // no visible key in this tile
        const Real raised = fmax(maximum, top), beta = power_of_2(top - raised);
        const Real alpha = maximum == -INFINITY ? Real{0} : power_of_2(maximum - raised);
        Real tile_sum = 0, t[kMaxChannelsPerLane] = {};
#pragma unroll
        for (int i = 0; i < kKeysPerLane; ++i) {
            const Real p = x[i] == -INFINITY ? Real{0} : power_of_2(x[i] - top);
            tile_sum = add_keys(tile_sum, p);
            for (int source = 0; source < 32; ++source) {
                const Real weight = __shfl_sync(~0u, p, source);
                const int64_t key = tile + i * 32 + source;
                if (key < lo || key >= hi) continue;
                const int64_t value_at = row_offset(args.value, batch, kv_head, sequence.k_start + key);
#pragma unroll
                for (int e = 0; e < kMaxChannelsPerLane; ++e)
                    if (e * 32 + lane < args.value.dim) t[e] = fma(weight, static_cast<Real>(load_one(args.value, value_at + e * 32 + lane)), t[e]);
            }
        }
        sum = fma(fold(tile_sum), beta, product(sum, alpha));
#pragma unroll
        for (int e = 0; e < kMaxChannelsPerLane; ++e) out[e] = fma(t[e], beta, product(out[e], alpha));
        maximum = raised;
    }
    float* target = g.out + batch * g.out_strides.batch + head * g.out_strides.head + (sequence.q_start + row) * g.out_strides.token;
#pragma unroll
    for (int e = 0; e < kMaxChannelsPerLane; ++e)
        if (e * 32 + lane < args.value.dim) target[e * 32 + lane] = sum > 0 ? static_cast<float>(out[e] / sum) : 0.f;
    if (g.lse != nullptr && lane == 0) {
        float* lse = g.lse + batch * g.lse_strides.batch + head * g.lse_strides.head + (sequence.q_start + row) * g.lse_strides.token;
        *lse = sum > 0 ? static_cast<float>((static_cast<double>(maximum) + log2(static_cast<double>(sum))) * 0.6931471805599453) : -INFINITY;
    }
}

__global__ void compare(const float* a, const float* b, int64_t n, double* totals) {
    double difference = 0, size = 0, worst = 0;
    unsigned long long odd = 0;
    for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        const float x = a[i], y = b[i];
        if (x == y) {  // equal infinities too
            if (isfinite(y)) size += static_cast<double>(y) * y;
            continue;
        }
        if (!isfinite(x) || !isfinite(y)) {
            ++odd;
            continue;
        }
        const double d = static_cast<double>(x) - y;
        difference += d * d;
        size += static_cast<double>(y) * y;
        worst = fmax(worst, fabs(d));
    }
    atomicAdd(totals, difference);
    atomicAdd(totals + 1, size);
    atomicMax(reinterpret_cast<unsigned long long*>(totals + 2), static_cast<unsigned long long>(__double_as_longlong(worst)));
    atomicAdd(totals + 3, static_cast<double>(odd));
}

}  // namespace

cudaError_t launch_float_flash_fwd(const FloatForwardArgs& args, bool in_float64, cudaStream_t stream) {
    const int64_t blocks = (args.geometry.max_q_len + int64_t{kWarps} - 1) / kWarps * args.geometry.heads * args.geometry.sequence_count;
    if (blocks == 0) return cudaSuccess;
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    if (in_float64) float_flash_fwd<double><<<static_cast<unsigned>(blocks), kWarps * 32, 0, stream>>>(args);
    else float_flash_fwd<float><<<static_cast<unsigned>(blocks), kWarps * 32, 0, stream>>>(args);
    return cudaGetLastError();
}

cudaError_t launch_compare(const float* a, const float* b, int64_t n, double* totals, cudaStream_t stream) {
    compare<<<256, 256, 0, stream>>>(a, b, n, totals);
    return cudaGetLastError();
}

}  // namespace intflash
