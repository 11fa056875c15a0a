// Sizes of grids.

#pragma once

#include <algorithm>
#include <cstdint>

namespace tcm_d2 {

// x may be up to 2^31 - 1, y up to 65535; kernels loop over the rest.
constexpr int64_t kMaxGridX = int64_t(1) << 30;
constexpr unsigned kMaxGridY = 65535;

// Blocks of `per_block` that hold `count`, as many as a grid may have.
inline unsigned num_blocks(int64_t count, int64_t per_block) {
  return static_cast<unsigned>(
      std::min((count + per_block - 1) / per_block, kMaxGridX));
}

}  // namespace tcm_d2
