// Sizes of grids, and the launch of a kernel.

#pragma once

#include <algorithm>
#include <cstdint>

#include "place.h"

namespace tcm_d2 {

// x may be up to 2^31 - 1, y up to 65535; kernels loop over the rest. The tests
// on the CPU set smaller ones.
#if !defined(TCM_D2_CUDA_EMULATION)
constexpr int64_t kMaxGridX = int64_t(1) << 30;
constexpr int64_t kMaxGridY = 65535;
#endif

// Blocks of `per_block` that hold `count`, as many as a grid may have.
inline unsigned num_blocks(int64_t count, int64_t per_block) {
  return static_cast<unsigned>(
      std::min<int64_t>((count + per_block - 1) / per_block, kMaxGridX));
}

inline unsigned num_blocks_y(int64_t count, int64_t per_block) {
  return static_cast<unsigned>(
      std::min<int64_t>((count + per_block - 1) / per_block, kMaxGridY));
}

// Starts a kernel; whoever called asks for errors at the end.
#if !defined(TCM_D2_CUDA_EMULATION)
template <typename... Parameters, typename... Arguments>
void launch(Cuda place, void (*kernel)(Parameters...), dim3 grid,
            unsigned threads, Arguments... arguments) {
  kernel<<<grid, threads, 0, static_cast<cudaStream_t>(place.stream)>>>(
      arguments...);
}
#endif

}  // namespace tcm_d2
