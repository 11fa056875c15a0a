// Which points lie in which rotated boxes, on CUDA.

#include <cstdint>

#include "../cuda_launch.h"
#include "../cuda_tile.h"
#include "kernels.h"

namespace tcm_d2 {
namespace {

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

}  // namespace

template <typename Scalar>
void points_in_rotated_boxes(Cuda place, const Scalar* points,
                             int64_t num_points, const Scalar* boxes,
                             int64_t num_boxes, bool* inside) {
  if (num_points == 0 || num_boxes == 0) return;
  const dim3 grid(num_blocks(num_boxes, kColumns),
                  num_blocks_y(num_points, kRows));
  launch(place, &points_in_rotated_boxes_kernel<Scalar>, grid, kColumns, points,
         boxes, num_points, num_boxes, inside);
}

template void points_in_rotated_boxes(Cuda, const float*, int64_t, const float*,
                                      int64_t, bool*);
template void points_in_rotated_boxes(Cuda, const double*, int64_t,
                                      const double*, int64_t, bool*);

}  // namespace tcm_d2
