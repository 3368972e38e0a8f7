// See gather_strided.h. An element a thread and step: what follows, the way to the host, takes longer.
#include <cuda_runtime.h>

#include <algorithm>

#include "gather_strided.h"

namespace intflash {
namespace {

constexpr int kThreads = 256, kMaxBlocks = 4096;

template <class Element> __global__ void __launch_bounds__(kThreads) gather_strided(const Element* from, const __grid_constant__ StridedAxes axes, int64_t first, int64_t count, Element* to) {
    const int64_t step = int64_t{gridDim.x} * kThreads;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
        uint64_t left = static_cast<uint64_t>(first + i);
        int64_t at = 0;
        for (int axis = axes.rank - 1; axis > 0; --axis) {
            const uint64_t dim = static_cast<uint64_t>(axes.dims[axis]), outer = left / dim;
            at += static_cast<int64_t>(left - outer * dim) * axes.strides[axis];
            left = outer;
        }
        to[i] = from[at + static_cast<int64_t>(left) * axes.strides[0]];
    }
}

template <class Element> cudaError_t launch(const void* from, const StridedAxes& axes, int64_t first, int64_t count, void* to, cudaStream_t stream) {
    const int blocks = static_cast<int>(std::min<int64_t>((count + kThreads - 1) / kThreads, kMaxBlocks));
    gather_strided<Element><<<blocks, kThreads, 0, stream>>>(static_cast<const Element*>(from), axes, first, count, static_cast<Element*>(to));
    return cudaGetLastError();
}

/** Leaves out axes of one element, and makes one of two where the strides allow; one axis remains. */
void merge_axes(StridedAxes& axes) {
    int rank = 0;
    for (int axis = 0; axis < axes.rank; ++axis) {
        const int64_t dim = axes.dims[axis], stride = axes.strides[axis];
        if (dim == 1) continue;
        if (rank > 0 && axes.strides[rank - 1] == dim * stride) {
            axes.dims[rank - 1] *= dim, axes.strides[rank - 1] = stride;
        } else {
            axes.dims[rank] = dim, axes.strides[rank] = stride;
            ++rank;
        }
    }
    if (rank == 0) axes.dims[0] = axes.strides[0] = 1;
    axes.rank = std::max(rank, 1);
}

/** Makes elements of twice the length. @returns whether that could be */
bool widen(StridedAxes& axes, const void* from) {
    const int last = axes.rank - 1;
    if (axes.element_bytes == 16 || axes.strides[last] != 1 || axes.dims[last] % 2 != 0 || reinterpret_cast<uintptr_t>(from) % (2 * static_cast<unsigned>(axes.element_bytes)) != 0) return false;
    for (int axis = 0; axis < last; ++axis)
        if (axes.strides[axis] % 2 != 0) return false;
    for (int axis = 0; axis < last; ++axis) axes.strides[axis] /= 2;
    axes.dims[last] /= 2;
    axes.element_bytes *= 2;
    return true;
}

}  // namespace

StridedAxes made_simple(StridedAxes axes, const void* from) {
    merge_axes(axes);
    while (widen(axes, from)) continue;
    merge_axes(axes);
    return axes;
}

cudaError_t launch_gather(const void* from, const StridedAxes& axes, int64_t first, int64_t count, void* to, cudaStream_t stream) {
    if (count == 0) return cudaSuccess;
    switch (axes.element_bytes) {
        case 1: return launch<uint8_t>(from, axes, first, count, to, stream);
        case 2: return launch<uint16_t>(from, axes, first, count, to, stream);
        case 4: return launch<uint32_t>(from, axes, first, count, to, stream);
        case 8: return launch<uint2>(from, axes, first, count, to, stream);
        case 16: return launch<uint4>(from, axes, first, count, to, stream);
        default: return cudaErrorInvalidValue;
    }
}

}  // namespace intflash
