// See decoder_steps.h. Small kernels bound by latency or memory: a block a token, or a warp a head of a token.
//   §1 rows, a block each     §3 activations
//   §2 embedding and norms   §4 heads: norms, rotation, query codes
#include <cuda_runtime.h>

#include <algorithm>

#include "activation.cuh"
#include "decoder_steps.h"
#include "hadamard.cuh"
#include "launch_early.h"
#include "linear_finish.cuh"
#include "ptx/grid_dependency.cuh"
#include "row_codes.cuh"
#include "row_threads.h"
#include "turn_head.cuh"
#include "warp_reductions.cuh"

namespace intflash {
namespace {

constexpr int kMaxGridY = 65535;  // CUDA's limit

// ── §1 ──
constexpr int kAtOnce = 4;

/** A row lies in shared memory where it has room there and nobody wants its floats; else in its place among `out.floats`. */
constexpr int kSharedFloats = 96 * 1024 / 4 - 256;

/** Rows from which on a processor gets several, and a thread stands for kAtOnce. */
constexpr int kManyRows = 256;

int shared_bytes_for(int width, const LayerInput& out) { return out.codes.codes != nullptr && width <= kSharedFloats ? width * static_cast<int>(sizeof(float)) : 0; }

__device__ __forceinline__ float* row_memory(int width, const LayerInput& out, int64_t token) {
    extern __shared__ __align__(16) float shared_row[];
    return out.codes.codes != nullptr && width <= kSharedFloats ? shared_row : out.floats + token * out.columns;
}

template <class... Parameters> cudaError_t launch_rows(void (*kernel)(Parameters...), dim3 grid, int threads, int width, const LayerInput& out, cudaStream_t stream, Parameters... parameters) {
    const int bytes = shared_bytes_for(width, out);
    // From less than 48 KB on, since a kernel's own shared memory counts, too; always the same number, since threads launch the same kernels.
    if (bytes > 32 * 1024)
        if (const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedFloats * static_cast<int>(sizeof(float)))) return status;
    return launch_early(kernel, grid, threads, bytes, stream, parameters...);
}

/** Of all threads' sums, the same in every thread; `scratch`: 32 doubles. Warps of a smaller block stand for several, too. */
template <int kFold> __device__ __forceinline__ double block_sum(const double (&sum)[kFold], double* scratch) {
    const int warps = blockDim.x / 32;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kFold; ++i) {
        const double part = warp_sum(sum[i]);
        if (threadIdx.x % 32 == 0) scratch[i * warps + threadIdx.x / 32] = part;
    }
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < kFold * warps ? scratch[threadIdx.x % 32] : 0.);
}

/** Zeros behind a row of floats, or its codes where they are wanted. `most`: of this thread's numbers. */
__device__ __forceinline__ void finish_row(float* row, int width, const LayerInput& out, int64_t token, float most, uint32_t* findings, float* scratch) {
    if (out.codes.codes != nullptr) return encode_row(row, width, out.columns, block_largest(most, scratch), out.codes.codes + token * out.columns, out.codes.scales + token, findings);
    for (int c = width + threadIdx.x; c < out.columns; c += blockDim.x) row[c] = 0.f;
}

/** f(i, c) for this thread's columns of a row, kAtOnce at a time: first `load`, then `use` of each. */
template <class Load, class Use> __device__ __forceinline__ void for_columns(int first, int width, int stride, const Load& load, const Use& use) {
    for (int base = first; base < width; base += kAtOnce * stride) {
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
            if (base + i * stride < width) load(i, base + i * stride);
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
            if (base + i * stride < width) use(i, base + i * stride);
    }
}

// ── §2 ──
__global__ void __launch_bounds__(kMostRowThreads) embed(const Embedding embedding, const int32_t* ids, const StepTable step, float* hidden) {
    const int64_t token = blockIdx.x;
    const int64_t row = ids[token] * embedding.stride;
    const float* position = embedding.positions == nullptr ? nullptr : embedding.positions + int64_t{step.position(blockIdx.x)} * embedding.hidden;
    for (int c = threadIdx.x; c < embedding.hidden; c += blockDim.x) {
        const float x = embedding.table == nullptr ? __uint_as_float(static_cast<uint32_t>(embedding.bfloat16[row + c]) << 16) : embedding.table[row + c];
        hidden[token * embedding.hidden + c] = position == nullptr ? x : __fadd_rn(x, position[c]);
    }
}

/**
 * A thread stands for kFold, blockDim.x apart: so few rows and many, which have blocks of different sizes, get the same sums to the bit.
 *
 * @param cleared [tokens] that get zeros meanwhile, or null
 */
template <int kFold>
__global__ void __launch_bounds__(kMostRowThreads / kFold) norm_rows(const Norm norm, const float* input, const int32_t* rows, int width, const LayerInput out, uint32_t* cleared,
                                                                     uint32_t* findings) {
    __shared__ double sums[32];
    __shared__ float scratch[32];
    float some[kAtOnce], gains[kAtOnce];
    const auto ask = [&](int i, int c) { gains[i] = norm.gain[c]; };
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
        if (threadIdx.x + i * blockDim.x < width) ask(i, threadIdx.x + i * blockDim.x);  // the first that are needed; they do not depend on the launch before
    wait_for_launch_before();
    const int64_t token = blockIdx.x;
    const float* x = input + (rows == nullptr ? token : int64_t{rows[token]}) * width;
    float* row = row_memory(width, out, token);
    if (cleared != nullptr && threadIdx.x == 0) cleared[token] = 0;
    double sum[kFold] = {};
    for_columns(threadIdx.x, width, blockDim.x, [&](int i, int c) { some[i] = x[c]; }, [&](int i, int c) {
        row[c] = some[i];
        const double value = some[i];
        sum[i % kFold] = __dadd_rn(sum[i % kFold], norm.centered ? value : __dmul_rn(value, value));
    });
    launch_dependents();  // now that the row is here: what comes next asks for weights at once, which would be in its way
    double mean = 0, squares = block_sum(sum, sums);
    if (norm.centered) {
        mean = squares / width;
        for (double& part : sum) part = 0;
        for_columns(threadIdx.x, width, blockDim.x, [](int, int) {}, [&](int i, int c) {
            const double centered = row[c] - mean;
            sum[i % kFold] = __dadd_rn(sum[i % kFold], __dmul_rn(centered, centered));
        });
        squares = block_sum(sum, sums);
    }
    const double factor = 1 / sqrt(squares / width + norm.epsilon);
    float most = 0.f;
    for_columns(threadIdx.x, width, blockDim.x, [&](int i, int c) { if (c >= kAtOnce * static_cast<int>(blockDim.x)) ask(i, c); }, [&](int i, int c) {
        double scaled = __dmul_rn(__dmul_rn(norm.centered ? row[c] - mean : row[c], factor), gains[i]);
        if (norm.bias != nullptr) scaled = __dadd_rn(scaled, norm.bias[c]);
        row[c] = static_cast<float>(scaled);
        most = larger(most, row[c]);
    });
    finish_row(row, width, out, token, most, findings, scratch);
}

// ── §3 ──
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

// ── §4 ──
constexpr int kHeadWarps = 4;

__global__ void __launch_bounds__(kHeadWarps * 32, 8) turn_heads(const Heads heads, const HeadNorms norms, const Rotation rotation, const StepTable step, const QueryTarget target,
                                                              int layer, int first, int end, uint32_t* findings) {
    __shared__ HeadMemory memories[kHeadWarps];
    const int token = blockIdx.x, head = first + blockIdx.y * kHeadWarps + threadIdx.x / 32, dim = heads.head_dim;
    if (head >= end) return;
    const bool is_query = head < heads.heads;
    HeadMemory& memory = memories[threadIdx.x / 32];
    float* given = heads.qkv + (static_cast<int64_t>(token) * (heads.heads + 2 * heads.kv_heads) + head) * dim;
    load_head(memory.row, given, dim);
    turn_as(memory.row, dim, is_query ? norms.query : norms.key, norms.epsilon, rotation, turn_at(rotation, step.position(token)));
    if (is_query) {
        scale_query(memory.row, dim, step.sequences[step.sequence_of[token]], static_cast<int64_t>(layer) * heads.kv_heads + head / (heads.heads / heads.kv_heads));
        return write_query(memory, heads, step, token, head, target, findings);
    }
    for (int d = threadIdx.x % 32; d < dim; d += 32) given[d] = memory.row[d];
}

/** A block a token, its warps a head each at a time; codes where they are wanted. */
__global__ void __launch_bounds__(kMostRowThreads) rotate_back(int heads, int dim, const LayerInput rows, uint32_t* findings) {
    __shared__ float scratch[32];
    wait_for_launch_before();
    const int64_t token = blockIdx.x;
    const float* given = rows.floats + token * rows.columns;
    float *row = row_memory(heads * dim, rows, token), most = 0.f;
    for (int head = threadIdx.x / 32; head < heads; head += blockDim.x / 32) {
        rotate_row(given + head * dim, row + head * dim, dim);
        for (int d = threadIdx.x % 32; d < dim; d += 32) most = larger(most, row[head * dim + d]);
    }
    launch_dependents();
    finish_row(row, heads * dim, rows, token, most, findings, scratch);
}

}  // namespace

cudaError_t launch_embed(const Embedding& embedding, const int32_t* ids, const StepTable& step, float* hidden, cudaStream_t stream) {
    embed<<<step.tokens, threads_for(embedding.hidden), 0, stream>>>(embedding, ids, step, hidden);
    return cudaGetLastError();
}

cudaError_t launch_norm(const Norm& norm, const float* input, const int32_t* rows, int tokens, int width, const LayerInput& out, uint32_t* cleared, uint32_t* findings, cudaStream_t stream) {
    const int threads = threads_for(width);
    return tokens < kManyRows ? launch_rows(norm_rows<1>, dim3(tokens), threads, width, out, stream, norm, input, rows, width, out, cleared, findings)
                              : launch_rows(norm_rows<kAtOnce>, dim3(tokens), threads / kAtOnce, width, out, stream, norm, input, rows, width, out, cleared, findings);
}

cudaError_t launch_activate(Activation activation, const float* input, int tokens, int width, const LayerInput& out, uint32_t* largest, uint32_t* findings, cudaStream_t stream) {
    const FloatRows source{input, activation == Activation::kSwiglu ? 2 * width : width};
    const auto launch = [&](auto kernel) {
        const int threads = threads_for(width);
        return launch_shared_rows<FloatRows>(kernel, source, tokens, width, threads, 2 * threads, out, largest, findings, stream);
    };
    switch (activation) {
        case Activation::kSwiglu: return launch(activate<Activation::kSwiglu>);
        case Activation::kSilu: return launch(activate<Activation::kSilu>);
        case Activation::kGelu: return launch(activate<Activation::kGelu>);
        default: return launch(activate<Activation::kGeluTanh>);
    }
}

bool suits_swiglu_sums(const Int8Weights& weights) { return weights.rows % (2 * kSumsAtOnce) == 0; }

cudaError_t launch_swiglu_sums(const Int8Weights& weights, const int32_t* sums, const float* scales, int tokens, const LayerInput& out, uint32_t* largest, uint32_t* findings,
                               cudaStream_t stream) {
    const SummedRows source{weights, sums, scales};
    return launch_shared_rows<SummedRows>(swiglu_sums, source, tokens, weights.rows / 2, kSumThreads, kSumThreads * kSumsAtOnce, out, largest, findings, stream);
}

cudaError_t launch_turn_heads(const Heads& heads, const HeadNorms& norms, const Rotation& rotation, const StepTable& step, const QueryTarget& target, const CacheLayer& cache, TurnedHeads which,
                              uint32_t* findings, cudaStream_t stream) {
    const int first = which == TurnedHeads::kKeys ? heads.heads : 0, end = which == TurnedHeads::kQueries ? heads.heads : heads.heads + heads.kv_heads;
    const int blocks = (end - first + kHeadWarps - 1) / kHeadWarps;
    if (blocks > kMaxGridY) return cudaErrorInvalidConfiguration;
    turn_heads<<<dim3(step.tokens, blocks), kHeadWarps * 32, 0, stream>>>(heads, norms, rotation, step, target, cache.index, first, end, findings);
    return cudaGetLastError();
}

cudaError_t launch_rotate_back(const LayerInput& rows, int tokens, int heads, int head_dim, uint32_t* findings, cudaStream_t stream) {
    const int threads = std::min(heads * 32, tokens < kManyRows ? kMostRowThreads : kMostRowThreads / kAtOnce);
    return launch_rows(rotate_back, dim3(tokens), threads, heads * head_dim, rows, stream, heads, head_dim, rows, findings);
}

}  // namespace intflash
