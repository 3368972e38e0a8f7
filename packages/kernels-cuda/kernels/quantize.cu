// See quantize.h: the order of the launches and the workspace between them.
#include "quantize.h"

#include "tile_layout.h"

namespace intflash {

size_t place_workspace(QuantizeRequest& request, const SequenceTable& table, int64_t tile_count, uint8_t* memory) {
    size_t at = 0;
    const auto take = [&](bool wanted, size_t count, size_t size) -> void* {
        if (!wanted) return nullptr;
        void* place = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(memory) + at);
        at += (count * size + 15) / 16 * 16;
        return place;
    };
    const size_t sequences = static_cast<size_t>(table.count), heads = sequences * static_cast<size_t>(request.key.heads), padded = static_cast<size_t>(request.padded);
    // Cleared: what the kernels raise or count up.
    request.head_maxima.query = static_cast<uint32_t*>(take(true, sequences * static_cast<size_t>(request.query.heads), 4));
    request.head_maxima.key = static_cast<uint32_t*>(take(true, heads, 4));
    request.statistics.arrivals = static_cast<uint32_t*>(take(true, 2 * heads, 4));
    request.statistics.maxima = static_cast<float*>(take(is_float(request.value) && request.mode != ValueMode::kHalf, heads * padded, 4));
    request.cleared_bytes = at;
    request.statistics.means = static_cast<float*>(take(request.smooth_k, heads * padded, 4));
    request.statistics.partial_sums = static_cast<double*>(take(request.smooth_k, static_cast<size_t>(tile_count) * padded, 8));
    return at;
}

cudaError_t launch_quantize(const QuantizeRequest& request, const SequenceTable& table, cudaStream_t stream) {
    if (const cudaError_t status = cudaMemsetAsync(request.head_maxima.query, 0, request.cleared_bytes, stream)) return status;
    if (const cudaError_t status = launch_encode(request, table, stream)) return status;
    if (const cudaError_t status = launch_pack(request, table, stream)) return status;
    return launch_judge_scores(request.head_maxima, table, request.query.heads, request.key.heads, 127, request.query.dim, request.scale, request.findings, stream);
}

}  // namespace intflash
