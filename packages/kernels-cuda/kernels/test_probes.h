// What tests need of the device and nothing else does.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace intflash {

/** Leaves 0xFF in all of every processor's shared memory, for whoever reads there without having written. */
cudaError_t launch_poison_shared(int shared_bytes, int processors, cudaStream_t stream);

/**
 * Of a page of a KV cache (cache_page.h), in every image, what is there of tokens from `from` on: codes become 0x80, scales, taus and inverse weights NaN. So do
 * the largest value scales behind the images, which are written when the page's last token is.
 */
cudaError_t launch_poison_page(uint8_t* page, int64_t heads, int padded, bool int4, int from, cudaStream_t stream);

/** *different += words in which the two differ. */
cudaError_t launch_count_differences(const uint32_t* a, const uint32_t* b, int64_t words, unsigned long long* different, cudaStream_t stream);

/** Writes where nothing is; the context of the process is lost. */
cudaError_t launch_fault(cudaStream_t stream);

}  // namespace intflash
