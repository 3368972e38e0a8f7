// Functions for both sides.
#pragma once

#ifdef __CUDACC__
#define INT_FLASH_BOTH __host__ __device__ __forceinline__
#else
#define INT_FLASH_BOTH inline
#endif
