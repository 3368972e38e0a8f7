// The elements of a strided tensor one behind the other, for its way to the host.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace intflash {

/** Which elements, outermost axis first. Strides count elements, and may be 0. */
struct StridedAxes {
    static constexpr int kMost = 8;
    int32_t rank, element_bytes;  // 1, 2 or 4; 8 and 16 too once made simple
    int64_t dims[kMost], strides[kMost];

    int64_t count() const {
        int64_t product = 1;
        for (int axis = 0; axis < rank; ++axis) product *= dims[axis];
        return product;
    }
};

/** The same bytes in the same order by fewer axes and longer elements, as strides and `from` allow. None of the dims may be 0. */
StridedAxes made_simple(StridedAxes axes, const void* from);

/** to[i] = element `first` + i of those that start at `from`, row-major, for `count` of them. Both start at a whole element. */
cudaError_t launch_gather(const void* from, const StridedAxes& axes, int64_t first, int64_t count, void* to, cudaStream_t stream);

}  // namespace intflash
