// See launch_activate and launch_swiglu_sums in decoder_steps.h.
#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#include "activation.cuh"
#include "linear_finish.cuh"
#include "ptx/grid_dependency.cuh"
#include "row_blocks.cuh"

namespace intflash {
namespace {

/** What an activation reads: rows of floats, a gate row and an up row side by side for `swiglu`. */
struct FloatRows {
    const float* rows;
    int stride;
    __device__ __forceinline__ float at(int64_t token, int c) const { return rows[token * stride + c]; }
};

template <Activation kKind> __device__ __forceinline__ float activated(float given) {
    if constexpr (kKind == Activation::kSilu) return static_cast<float>(silu(given));
    const double value = given;
    if constexpr (kKind == Activation::kGelu) return static_cast<float>(0.5 * value * (1 + erf(value * 0.70710678118654752440)));
    return static_cast<float>(0.5 * value * (1 + tanh(0.79788456080286535588 * (value + 0.044715 * value * value * value))));
}

/** Blocks that share a row (gridDim.y of them) leave its floats, and in `largest`, where that is given, the bits of its largest magnitude; one block alone also writes codes. */
__device__ __forceinline__ void finish_part(float* row, int width, const LayerInput& out, int64_t token, float most, uint32_t* largest, uint32_t* findings, float* scratch) {
    if (largest != nullptr) {
        const uint32_t found = __reduce_max_sync(~0u, __float_as_uint(most));
        if (threadIdx.x % 32 == 0) atomicMax(largest + token, found);
    } else if (blockIdx.y == 0) {
        finish_row(row, width, out, token, most, findings, scratch);
    }
}

template <Activation kKind>
__global__ void __launch_bounds__(kMostRowThreads) activate(const FloatRows source, int width, const LayerInput out, uint32_t* largest, uint32_t* findings) {
    __shared__ float scratch[32];
    launch_dependents();
    wait_for_launch_before();
    const int64_t token = blockIdx.x;
    float* row = gridDim.y > 1 ? out.floats + token * out.columns : row_memory(width, out, token);
    const int stride = blockDim.x * gridDim.y;
    float gate[kAtOnce], up[kAtOnce], most = 0.f;
    const auto read = [&](int i, int c) {
        gate[i] = source.at(token, c);
        if constexpr (kKind == Activation::kSwiglu) up[i] = source.at(token, width + c);
    };
    for_columns(blockIdx.y * blockDim.x + threadIdx.x, width, stride, read, [&](int i, int c) {
        float value;
        if constexpr (kKind == Activation::kSwiglu) value = swiglu(gate[i], up[i]);
        else value = activated<kKind>(gate[i]);
        row[c] = value;
        most = larger(most, value);
    });
    finish_part(row, width, out, token, most, largest, findings, scratch);
}

constexpr int kGroupThreads = 256;

/** Into codes by groups: a thread four neighbouring columns. */
template <Activation kKind> __global__ void __launch_bounds__(kGroupThreads) activate_groups(const FloatRows source, int width, const LayerInput out, uint32_t* findings) {
    wait_for_launch_before();
    const int64_t token = blockIdx.x;
    const int c = (blockIdx.y * kGroupThreads + threadIdx.x) * 4;
    const float* from = source.rows + token * source.stride + c;
    float4 gate{}, up{};
    if (c < width) {
        gate = *reinterpret_cast<const float4*>(from);
        if constexpr (kKind == Activation::kSwiglu) up = *reinterpret_cast<const float4*>(from + width);
    }
    launch_dependents();  // as quantize_groups
    if (c >= out.columns) return;  // a whole warp
    const auto value = [&](float a, float b) {
        if constexpr (kKind == Activation::kSwiglu) return swiglu(a, b);
        else return activated<kKind>(a);
    };
    const float4 y = c < width ? make_float4(value(gate.x, up.x), value(gate.y, up.y), value(gate.z, up.z), value(gate.w, up.w)) : float4{};
    encode_group_columns(y, c, out.groups.group, out.groups.codes + token * out.columns, out.groups.scales + token * (out.columns / out.groups.group), findings);
}

constexpr int kFewRows = 128;  // about as many as a GPU has processors

/** `kernel`, activate or its like, with several blocks a row where rows are few; `each`: numbers of a block. */
template <class Source>
cudaError_t launch_shared_rows(void (*kernel)(Source, int, LayerInput, uint32_t*, uint32_t*), const Source& source, int tokens, int width, int threads, int each, const LayerInput& out,
                               uint32_t* largest, uint32_t* findings, cudaStream_t stream) {
    const int parts = std::clamp(width / each, 1, 64);
    const bool has_codes = out.codes.codes != nullptr;
    if (has_codes && (tokens > kFewRows || parts == 1)) return launch_rows(kernel, dim3(tokens), threads, width, out, stream, source, width, out, static_cast<uint32_t*>(nullptr), findings);
    if (!has_codes) largest = nullptr;
    const cudaError_t status = launch_early(kernel, dim3(tokens, parts), threads, 0, stream, source, width, out, largest, findings);
    if (status != cudaSuccess || !has_codes) return status;
    return launch_encode_rows(out.floats, out.columns, tokens, width, largest, out.codes, findings, stream);
}

constexpr int kSumThreads = 512, kSumsAtOnce = 4;

/** Products that another library summed up, a gate row and an up row side by side. */
struct SummedRows {
    Int8Weights weights;
    const int32_t* sums;
    const float* scales;
};

/** `swiglu` of such, four columns at a time: the linear layer's last step, the activation and the codes of its rows. As `activate` otherwise. */
__global__ void __launch_bounds__(kSumThreads) swiglu_sums(const SummedRows source, int width, const LayerInput out, uint32_t* largest, uint32_t* findings) {
    __shared__ float scratch[32];
    launch_dependents();
    wait_for_launch_before();
    const int64_t token = blockIdx.x;
    const Int8Weights& weights = source.weights;
    const float x_scale = source.scales[token];
    const int32_t* const row_sums = source.sums + token * weights.rows;
    float* row = gridDim.y > 1 ? out.floats + token * out.columns : row_memory(width, out, token);
    float most = 0.f;
    for (int c = (blockIdx.y * kSumThreads + threadIdx.x) * kSumsAtOnce; c < width; c += gridDim.y * kSumThreads * kSumsAtOnce) {
        const int4 gate = *reinterpret_cast<const int4*>(row_sums + c), up = *reinterpret_cast<const int4*>(row_sums + width + c);
        const int gates[kSumsAtOnce] = {gate.x, gate.y, gate.z, gate.w}, ups[kSumsAtOnce] = {up.x, up.y, up.z, up.w};
        float y[kSumsAtOnce];
#pragma unroll
        for (int i = 0; i < kSumsAtOnce; ++i) {
            y[i] = swiglu(finished(weights, c + i, gates[i], x_scale), finished(weights, width + c + i, ups[i], x_scale));
            most = larger(most, y[i]);
        }
        *reinterpret_cast<float4*>(row + c) = make_float4(y[0], y[1], y[2], y[3]);
    }
    finish_part(row, width, out, token, most, largest, findings, scratch);
}

}  // namespace

cudaError_t launch_activate(Activation activation, const float* input, int tokens, int width, const LayerInput& out, uint32_t* largest, uint32_t* findings, cudaStream_t stream) {
    const FloatRows source{input, activation == Activation::kSwiglu ? 2 * width : width};
    const auto launch = [&](auto kind) {
        if (out.groups.codes != nullptr) {
            const dim3 grid(tokens, (out.columns / 4 + kGroupThreads - 1) / kGroupThreads);
            return launch_early(activate_groups<kind.value>, grid, kGroupThreads, 0, stream, source, width, out, findings);
        }
        const int threads = threads_for(width);
        return launch_shared_rows<FloatRows>(activate<kind.value>, source, tokens, width, threads, 2 * threads, out, largest, findings, stream);
    };
    switch (activation) {
        case Activation::kSwiglu: return launch(std::integral_constant<Activation, Activation::kSwiglu>());
        case Activation::kSilu: return launch(std::integral_constant<Activation, Activation::kSilu>());
        case Activation::kGelu: return launch(std::integral_constant<Activation, Activation::kGelu>());
        default: return launch(std::integral_constant<Activation, Activation::kGeluTanh>());
    }
}

bool suits_swiglu_sums(const Int8Weights& weights) { return weights.rows % (2 * kSumsAtOnce) == 0; }

cudaError_t launch_swiglu_sums(const Int8Weights& weights, const int32_t* sums, const float* scales, int tokens, const LayerInput& out, uint32_t* largest, uint32_t* findings,
                               cudaStream_t stream) {
    const SummedRows source{weights, sums, scales};
    return launch_shared_rows<SummedRows>(swiglu_sums, source, tokens, weights.rows / 2, kSumThreads, kSumThreads * kSumsAtOnce, out, largest, findings, stream);
}

}  // namespace intflash
