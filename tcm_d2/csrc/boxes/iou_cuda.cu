// Pairwise and paired IoU of rotated boxes on CUDA.

#include <cstdint>

#include "../cuda_launch.h"
#include "../cuda_tile.h"
#include "../geometry/rotated_gradient.h"
#include "kernels.h"

namespace tcm_d2 {
namespace {

// Overlaps of kRows by kColumns boxes a tile; a block goes down tiles gridDim.y
// apart. Zeros go out first, row by row, so that neighbouring threads write
// neighbouring numbers; the few others follow.
template <typename Scalar>
__global__ void __launch_bounds__(kColumns)
    box_iou_rotated_kernel(const Scalar* boxes1, const Scalar* boxes2,
                           int64_t num_rows, int64_t num_columns, bool iof,
                           Scalar* overlaps) {
  __shared__ Rect<double> column_rects[kColumns];
  __shared__ Rect<double> row_rects[kRows];
  __shared__ Hull row_hulls[kRows];
  __shared__ PairList list;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kColumns;
  const bool has_column = first_column + thread < num_columns;
  Rect<double> rect = {};
  if (has_column) {
    rect = make_rect<double>(boxes2 + 5 * (first_column + thread));
  }
  column_rects[thread] = rect;
  const Hull hull = make_hull(rect);
  const int64_t num_tiles = (num_rows + kRows - 1) / kRows;
  for (int64_t tile = blockIdx.y; tile < num_tiles; tile += gridDim.y) {
    const int64_t first_row = tile * kRows;
    const int64_t rows_left = num_rows - first_row;
    const int count = rows_left < kRows ? static_cast<int>(rows_left) : kRows;
    Scalar* out = overlaps + first_row * num_columns + first_column;
    __syncthreads();  // the last tile's rows and pairs are still being read
    if (thread < count) {
      row_rects[thread] = make_rect<double>(boxes1 + 5 * (first_row + thread));
      row_hulls[thread] = make_hull(row_rects[thread]);
    }
    if (thread == 0) list.count = 0;
    __syncthreads();
    if (has_column) {
      for (int row = 0; row < count; ++row) {
        out[row * num_columns + thread] = Scalar(0);
        if (hulls_meet(row_hulls[row], hull)) list_pair(&list, row, thread);
      }
    }
    __syncthreads();
    for (int i = thread; i < list.count; i += kColumns) {
      const int row = list.pairs[i] / kColumns;
      const int column = list.pairs[i] % kColumns;
      out[row * num_columns + column] = static_cast<Scalar>(
          overlap(row_rects[row], column_rects[column], iof));
    }
  }
}

template <typename Scalar>
__global__ void __launch_bounds__(kColumns)
    paired_iou_rotated_kernel(const Scalar* boxes1, const Scalar* boxes2,
                              int64_t num_pairs, Scalar* iou) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kColumns;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
       i < num_pairs; i += step) {
    iou[i] =
        static_cast<Scalar>(overlap(make_rect<double>(boxes1 + 5 * i),
                                    make_rect<double>(boxes2 + 5 * i), false));
  }
}

template <typename Scalar>
__global__ void __launch_bounds__(kColumns)
    paired_iou_rotated_backward_kernel(const Scalar* grad_iou,
                                       const Scalar* boxes1,
                                       const Scalar* boxes2, int64_t num_pairs,
                                       Scalar* grad1, Scalar* grad2) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kColumns;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
       i < num_pairs; i += step) {
    const PairGrad<double> grads = overlap_grad(
        make_rect<double>(boxes1 + 5 * i), make_rect<double>(boxes2 + 5 * i),
        static_cast<double>(grad_iou[i]));
    store_grad(grads.first, grad1 + 5 * i);
    store_grad(grads.second, grad2 + 5 * i);
  }
}

}  // namespace

template <typename Scalar>
void box_iou_rotated(Cuda place, const Scalar* boxes1, int64_t num1,
                     const Scalar* boxes2, int64_t num2, bool iof,
                     Scalar* overlaps) {
  if (num1 == 0 || num2 == 0) return;
  const dim3 grid(num_blocks(num2, kColumns), num_blocks_y(num1, kRows));
  launch(place, &box_iou_rotated_kernel<Scalar>, grid, kColumns, boxes1, boxes2,
         num1, num2, iof, overlaps);
}

template <typename Scalar>
void paired_iou(Cuda place, const Scalar* boxes1, const Scalar* boxes2,
                int64_t num, Scalar* iou) {
  if (num == 0) return;
  launch(place, &paired_iou_rotated_kernel<Scalar>, num_blocks(num, kColumns),
         kColumns, boxes1, boxes2, num, iou);
}

template <typename Scalar>
void paired_iou_backward(Cuda place, const Scalar* grad_iou,
                         const Scalar* boxes1, const Scalar* boxes2,
                         int64_t num, Scalar* grad1, Scalar* grad2) {
  if (num == 0) return;
  launch(place, &paired_iou_rotated_backward_kernel<Scalar>,
         num_blocks(num, kColumns), kColumns, grad_iou, boxes1, boxes2, num,
         grad1, grad2);
}

#define TCM_D2_FOR(Scalar)                                                   \
  template void box_iou_rotated(Cuda, const Scalar*, int64_t, const Scalar*, \
                                int64_t, bool, Scalar*);                     \
  template void paired_iou(Cuda, const Scalar*, const Scalar*, int64_t,      \
                           Scalar*);                                         \
  template void paired_iou_backward(Cuda, const Scalar*, const Scalar*,      \
                                    const Scalar*, int64_t, Scalar*, Scalar*)
TCM_D2_FOR(float);
TCM_D2_FOR(double);
#undef TCM_D2_FOR

}  // namespace tcm_d2
