// The first launch of the quantizers: per channel, smooth-K's mean and V's maximum. Bound by memory: K and V are read once.
//
// A thread walks one tile's 128 tokens in order, 16 loads in flight, with 16 bytes of a row; docs/arithmetic.md defines the mean as the
// sum over tiles of sums over a tile's tokens. The block that finishes a head's last tile adds up the tiles.
#include <cuda_runtime.h>

#include "float_pieces.cuh"

namespace intflash {
namespace {

constexpr int kThreads = 128, kInFlight = 16;

/** Calls absorb(x, row inside the sequence) for the tile's rows, in order; rows past the end are left out. */
template <class P, class F>
__device__ __forceinline__ void walk_tile(const Operand& operand, const Place& at, int tile, int channel, F absorb) {
    const bool aligned = aligned_rows(operand);
    const int64_t first = row_offset(operand, at.batch, at.head, at.sequence.k_start + int64_t{tile} * kTileKeys) + channel;
    const int rows = min(kTileKeys, at.sequence.k_len - tile * kTileKeys);
#pragma unroll 1
    for (int begin = 0; begin < rows; begin += kInFlight) {
        uint4 raw[kInFlight];
#pragma unroll
        for (int i = 0; i < kInFlight; ++i)
            if (begin + i < rows) raw[i] = load_piece<P::kWide>(operand, first + (begin + i) * operand.strides.token, aligned);
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
            if (begin + i >= rows) break;
            float x[P::kPiece];
            widen<P>(x, raw[i], operand.type);
            absorb(x);
        }
    }
}

/** Adds up a head's tiles, in order; every block of the head has arrived. */
__device__ void finish_means(const QuantizeRequest& request, const Place& at, float* means) {
    for (int channel = threadIdx.x; channel < request.padded; channel += kThreads) {
        double sum = 0;
        if (channel < request.key.dim) {
            const double* partial = request.statistics.partial_sums + at.tiles_at * request.padded + channel;
            int tile = 0;
            for (; tile + kInFlight <= at.sequence.tiles; tile += kInFlight) {
                double x[kInFlight];
#pragma unroll
                for (int i = 0; i < kInFlight; ++i) x[i] = __ldcg(partial + static_cast<int64_t>(tile + i) * request.padded);
#pragma unroll
                for (int i = 0; i < kInFlight; ++i) sum += x[i];
            }
            for (; tile < at.sequence.tiles; ++tile) sum += __ldcg(partial + static_cast<int64_t>(tile) * request.padded);
        }
        means[channel] = at.sequence.k_len > 0 ? static_cast<float>(sum / at.sequence.k_len) : 0.f;
    }
}

/** The first `key_blocks` blocks of a head take K, the others V. */
template <class P> __global__ void __launch_bounds__(kThreads) gather_statistics(const __grid_constant__ QuantizeRequest request, const SequenceTable table, int key_blocks) {
    constexpr int kLanes = P::kD / P::kPiece, kTiles = kThreads / kLanes;  // pieces of a row; tiles of a block
    __shared__ bool last;
    const Place at = place(table);
    const int64_t head = static_cast<int64_t>(at.batch) * gridDim.y + at.head;
    const bool is_key = static_cast<int>(blockIdx.x) < key_blocks;
    const int block = static_cast<int>(blockIdx.x) - (is_key ? 0 : key_blocks), blocks = (at.sequence.tiles + kTiles - 1) / kTiles;
    const int tile = block * kTiles + threadIdx.x / kLanes, channel = threadIdx.x % kLanes * P::kPiece;
    if (block > 0 && block >= blocks) return;  // block 0 clears the means even of an empty sequence

    if (!is_key) {
        if (tile >= at.sequence.tiles || channel >= request.value.dim) return;
        float largest[P::kPiece] = {};
        walk_tile<P>(request.value, at, tile, channel, [&](const float(&x)[P::kPiece]) {
            if (!all_within(x, kLargestOperand)) report(x, kLargestOperand, &request.findings->bad_value, &request.findings->large_value);
#pragma unroll
            for (int i = 0; i < P::kPiece; ++i) largest[i] = fmaxf(largest[i], fabsf(x[i]));
        });
        uint32_t* target = reinterpret_cast<uint32_t*>(request.statistics.maxima + head * P::kD + channel);
#pragma unroll
        for (int i = 0; i < P::kPiece; ++i) atomicMax(target + i, __float_as_uint(largest[i]));
        return;
    }

    if (tile < at.sequence.tiles && channel < request.key.dim) {
        double sums[P::kPiece] = {};
        walk_tile<P>(request.key, at, tile, channel, [&](const float(&x)[P::kPiece]) {
#pragma unroll
            for (int i = 0; i < P::kPiece; ++i) sums[i] += x[i];
        });
        double2* target = reinterpret_cast<double2*>(request.statistics.partial_sums + (at.tiles_at + tile) * P::kD + channel);
#pragma unroll
        for (int i = 0; i < P::kPiece / 2; ++i) target[i] = make_double2(sums[2 * i], sums[2 * i + 1]);
        __threadfence();
    }
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(request.statistics.arrivals + head, 1u) + 1 >= static_cast<uint32_t>(blocks);
    __syncthreads();
    if (!last) return;
    __threadfence();
    finish_means(request, at, request.statistics.means + head * P::kD);
}

}  // namespace

cudaError_t launch_statistics(const QuantizeRequest& request, const SequenceTable& table, cudaStream_t stream) {
    const bool key = request.statistics.means != nullptr, value = request.statistics.maxima != nullptr;
    if (!key && !value) return cudaSuccess;
    const auto launch = [&](bool with_key, bool with_value) {
        const Operand& operand = with_key ? request.key : request.value;
        return with_pieces(request.padded, operand.type == ElementType::kFloat32, [&](auto pieces) {
            using P = decltype(pieces);
            constexpr int kTiles = kThreads / (P::kD / P::kPiece);
            const int blocks = (table.max_tiles + kTiles - 1) / kTiles, per_operand = blocks > 0 ? blocks : 1;
            gather_statistics<P><<<grid_of(int64_t{per_operand} * (with_key + with_value), operand.heads, table), kThreads, 0, stream>>>(request, table, with_key ? per_operand : 0);
        });
    };
    if (key && value && (request.key.type == ElementType::kFloat32) == (request.value.type == ElementType::kFloat32)) return launch(true, true);
    if (key)
        if (const cudaError_t status = launch(true, false)) return status;
    return value ? launch(false, true) : cudaSuccess;
}

}  // namespace intflash
