// Device code of quadrilaterals: their IoU, and the smallest boxes around them.

#pragma once

#include <cstdint>

#include "../quad_geometry.h"
#include "tile.h"

namespace tcm_d2 {

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

template <typename Scalar>
__global__ void __launch_bounds__(kColumns)
    minimum_area_boxes_kernel(const Scalar* quads, int64_t num_quads,
                              Scalar* boxes) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kColumns;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
       i < num_quads; i += step) {
    write_minimum_area_box(quads + 8 * i, boxes + 5 * i);
  }
}

}  // namespace tcm_d2
