// Device code of points in rotated boxes.

#pragma once

#include <cstdint>

#include "tile.h"

namespace tcm_d2 {

// A thread has a box and goes down the points, so that neighbours write
// neighbouring bytes.
template <typename Scalar>
__global__ void __launch_bounds__(kColumns)
    points_in_rotated_boxes_kernel(const Scalar* points, const Scalar* boxes,
                                   int64_t num_points, int64_t num_boxes,
                                   bool* inside) {
  const int64_t column =
      static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  if (column >= num_boxes) {
    return;
  }
  const Rect<double> rect = make_rect<double>(boxes + 5 * column);
  const bool has_area = rect.area > 0;
  const int64_t step = static_cast<int64_t>(gridDim.y) * kRows;
  for (int64_t first = static_cast<int64_t>(blockIdx.y) * kRows;
       first < num_points; first += step) {
    const int64_t left = num_points - first;
    const int64_t last = first + (left < kRows ? left : kRows);
    for (int64_t i = first; i < last; ++i) {
      const double dx = static_cast<double>(points[2 * i]) - rect.cx;
      const double dy = static_cast<double>(points[2 * i + 1]) - rect.cy;
      const double along_w = std::fabs(dx * rect.cos - dy * rect.sin);
      const double along_h = std::fabs(dx * rect.sin + dy * rect.cos);
      inside[i * num_boxes + column] =
          has_area & (along_w <= rect.half_w) & (along_h <= rect.half_h);
    }
  }
}

}  // namespace tcm_d2
