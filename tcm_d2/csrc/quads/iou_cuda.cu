// IoU of quadrilaterals on CUDA.

#include <cstdint>

#include "../cuda_launch.h"
#include "../cuda_tile.h"
#include "../geometry/quad.h"
#include "kernels.h"

namespace tcm_d2 {
namespace {

// Whether the upright bounds have a common area; not where one is NaN.
__device__ inline bool bounds_overlap(const Quad& one, const Quad& two) {
  return lesser(one.right, two.right) > greater(one.left, two.left) &&
         lesser(one.bottom, two.bottom) > greater(one.top, two.top);
}

// As box_iou_rotated_kernel.
template <typename Scalar>
__global__ void __launch_bounds__(kColumns)
    quad_iou_kernel(const Scalar* quads1, const Scalar* quads2,
                    int64_t num_rows, int64_t num_columns, Scalar* iou) {
  __shared__ Quad columns[kColumns];
  __shared__ Quad rows[kRows];
  __shared__ PairList list;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kColumns;
  const bool has_column = first_column + thread < num_columns;
  if (has_column) {
    columns[thread] = make_quad(quads2 + 8 * (first_column + thread));
  }
  const int64_t num_tiles = (num_rows + kRows - 1) / kRows;
  for (int64_t tile = blockIdx.y; tile < num_tiles; tile += gridDim.y) {
    const int64_t first_row = tile * kRows;
    const int64_t rows_left = num_rows - first_row;
    const int count = rows_left < kRows ? static_cast<int>(rows_left) : kRows;
    Scalar* out = iou + first_row * num_columns + first_column;
    __syncthreads();  // the last tile's rows and pairs are still being read
    if (thread < count) {
      rows[thread] = make_quad(quads1 + 8 * (first_row + thread));
    }
    if (thread == 0) list.count = 0;
    __syncthreads();
    if (has_column) {
      for (int row = 0; row < count; ++row) {
        out[row * num_columns + thread] = Scalar(0);
        if (bounds_overlap(rows[row], columns[thread])) {
          list_pair(&list, row, thread);
        }
      }
    }
    __syncthreads();
    for (int i = thread; i < list.count; i += kColumns) {
      const int row = list.pairs[i] / kColumns;
      const int column = list.pairs[i] % kColumns;
      out[row * num_columns + column] =
          static_cast<Scalar>(quad_iou(rows[row], columns[column]));
    }
  }
}

template <typename Scalar>
__global__ void __launch_bounds__(kColumns)
    paired_quad_iou_kernel(const Scalar* quads1, const Scalar* quads2,
                           int64_t num_pairs, Scalar* iou) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kColumns;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
       i < num_pairs; i += step) {
    iou[i] = static_cast<Scalar>(
        quad_iou(make_quad(quads1 + 8 * i), make_quad(quads2 + 8 * i)));
  }
}

}  // namespace

template <typename Scalar>
void quad_iou(Cuda place, const Scalar* quads1, int64_t num1,
              const Scalar* quads2, int64_t num2, Scalar* iou) {
  if (num1 == 0 || num2 == 0) return;
  const dim3 grid(num_blocks(num2, kColumns), num_blocks_y(num1, kRows));
  launch(place, &quad_iou_kernel<Scalar>, grid, kColumns, quads1, quads2, num1,
         num2, iou);
}

template <typename Scalar>
void paired_quad_iou(Cuda place, const Scalar* quads1, const Scalar* quads2,
                     int64_t num, Scalar* iou) {
  if (num == 0) return;
  launch(place, &paired_quad_iou_kernel<Scalar>, num_blocks(num, kColumns),
         kColumns, quads1, quads2, num, iou);
}

#define TCM_D2_FOR(Scalar)                                                     \
  template void quad_iou(Cuda, const Scalar*, int64_t, const Scalar*, int64_t, \
                         Scalar*);                                             \
  template void paired_quad_iou(Cuda, const Scalar*, const Scalar*, int64_t,   \
                                Scalar*)
TCM_D2_FOR(float);
TCM_D2_FOR(double);
#undef TCM_D2_FOR

}  // namespace tcm_d2
