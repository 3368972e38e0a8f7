// What stands between an MLP's linear layers, in float64.
#pragma once

namespace intflash {

__device__ __forceinline__ double silu(double x) { return x / (1 + exp(-x)); }

/** silu(gate) · up, rounded once. */
__device__ __forceinline__ float swiglu(float gate, float up) { return static_cast<float>(__dmul_rn(silu(gate), up)); }

}  // namespace intflash
