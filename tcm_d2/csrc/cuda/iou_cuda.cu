// Pairwise and paired IoU of rotated boxes on CUDA.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "../checks.h"
#include "../rotated_gradient.h"

namespace tcm_d2 {
namespace {

constexpr int kThreads = 128;
// Rows of the pairwise result that a block computes for its kThreads columns.
constexpr int kRowsPerBlock = 32;
// Limits of the grid: x is 2^31 - 1, y is 65535; larger work loops.
constexpr int64_t kMaxGridX = 1 << 30;
constexpr int64_t kMaxGridY = 65535;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename Scalar>
__global__ void __launch_bounds__(kThreads)
    box_iou_rotated_kernel(const Scalar* boxes1, const Scalar* boxes2,
                           int64_t num_rows, int64_t num_columns, bool iof,
                           Scalar* overlaps) {
  __shared__ Rect<double> rows[kRowsPerBlock];
  const int64_t column =
      static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  Rect<double> rect2 = {};
  if (column < num_columns) {
    rect2 = make_rect<double>(boxes2 + 5 * column);
  }
  const int64_t num_row_blocks = (num_rows + kRowsPerBlock - 1) / kRowsPerBlock;
  for (int64_t block = blockIdx.y; block < num_row_blocks; block += gridDim.y) {
    const int64_t first_row = block * kRowsPerBlock;
    const int64_t rows_left = num_rows - first_row;
    const int count =
        rows_left < kRowsPerBlock ? static_cast<int>(rows_left) : kRowsPerBlock;
    __syncthreads();  // the last round's rows are still being read
    if (threadIdx.x < count) {
      rows[threadIdx.x] =
          make_rect<double>(boxes1 + 5 * (first_row + threadIdx.x));
    }
    __syncthreads();
    if (column < num_columns) {
      for (int k = 0; k < count; ++k) {
        overlaps[(first_row + k) * num_columns + column] =
            static_cast<Scalar>(overlap(rows[k], rect2, iof));
      }
    }
  }
}

template <typename Scalar>
__global__ void __launch_bounds__(kThreads)
    paired_iou_rotated_kernel(const Scalar* boxes1, const Scalar* boxes2,
                              int64_t num_pairs, Scalar* iou) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < num_pairs; i += step) {
    iou[i] =
        static_cast<Scalar>(overlap(make_rect<double>(boxes1 + 5 * i),
                                    make_rect<double>(boxes2 + 5 * i), false));
  }
}

template <typename Scalar>
__global__ void __launch_bounds__(kThreads)
    paired_iou_rotated_backward_kernel(const Scalar* grad_iou,
                                       const Scalar* boxes1,
                                       const Scalar* boxes2, int64_t num_pairs,
                                       Scalar* grad1, Scalar* grad2) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < num_pairs; i += step) {
    const PairGrad<double> grads = overlap_grad(
        make_rect<double>(boxes1 + 5 * i), make_rect<double>(boxes2 + 5 * i),
        static_cast<double>(grad_iou[i]));
    store_grad(grads.first, grad1 + 5 * i);
    store_grad(grads.second, grad2 + 5 * i);
  }
}

at::Tensor box_iou_rotated_cuda(const at::Tensor& boxes1,
                                const at::Tensor& boxes2, bool iof) {
  check_pair(boxes1, boxes2);
  const c10::cuda::CUDAGuard guard(boxes1.device());
  const at::Tensor rows = boxes1.contiguous();
  const at::Tensor columns = boxes2.contiguous();
  const int64_t num_rows = rows.size(0);
  const int64_t num_columns = columns.size(0);
  at::Tensor overlaps = at::empty({num_rows, num_columns}, rows.options());
  if (overlaps.numel() == 0) {
    return overlaps;
  }
  const int64_t grid_x = ceil_div(num_columns, kThreads);
  TORCH_CHECK(grid_x <= kMaxGridX, "boxes2: too many boxes, ", num_columns);
  const dim3 grid(static_cast<unsigned>(grid_x),
                  static_cast<unsigned>(
                      std::min(ceil_div(num_rows, kRowsPerBlock), kMaxGridY)));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "box_iou_rotated_cuda", [&] {
    box_iou_rotated_kernel<scalar_t><<<grid, kThreads, 0, stream>>>(
        rows.const_data_ptr<scalar_t>(), columns.const_data_ptr<scalar_t>(),
        num_rows, num_columns, iof, overlaps.mutable_data_ptr<scalar_t>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return overlaps;
}

at::Tensor paired_iou_rotated_cuda(const at::Tensor& boxes1,
                                   const at::Tensor& boxes2) {
  check_aligned(boxes1, boxes2);
  const c10::cuda::CUDAGuard guard(boxes1.device());
  const at::Tensor first = boxes1.contiguous();
  const at::Tensor second = boxes2.contiguous();
  const int64_t num_pairs = first.size(0);
  at::Tensor iou = at::empty({num_pairs}, first.options());
  if (num_pairs == 0) {
    return iou;
  }
  const auto grid =
      static_cast<unsigned>(std::min(ceil_div(num_pairs, kThreads), kMaxGridX));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(
      first.scalar_type(), "paired_iou_rotated_cuda", [&] {
        paired_iou_rotated_kernel<scalar_t><<<grid, kThreads, 0, stream>>>(
            first.const_data_ptr<scalar_t>(), second.const_data_ptr<scalar_t>(),
            num_pairs, iou.mutable_data_ptr<scalar_t>());
      });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return iou;
}

std::tuple<at::Tensor, at::Tensor> paired_iou_rotated_backward_cuda(
    const at::Tensor& grad_iou, const at::Tensor& boxes1,
    const at::Tensor& boxes2) {
  check_aligned(boxes1, boxes2);
  check_grad(grad_iou, boxes1);
  const c10::cuda::CUDAGuard guard(boxes1.device());
  const at::Tensor first = boxes1.contiguous();
  const at::Tensor second = boxes2.contiguous();
  const at::Tensor scales = grad_iou.contiguous();
  const int64_t num_pairs = first.size(0);
  at::Tensor grad1 = at::empty({num_pairs, 5}, first.options());
  at::Tensor grad2 = at::empty({num_pairs, 5}, first.options());
  if (num_pairs == 0) {
    return {grad1, grad2};
  }
  const auto grid =
      static_cast<unsigned>(std::min(ceil_div(num_pairs, kThreads), kMaxGridX));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(
      first.scalar_type(), "paired_iou_rotated_backward_cuda", [&] {
        paired_iou_rotated_backward_kernel<scalar_t>
            <<<grid, kThreads, 0, stream>>>(scales.const_data_ptr<scalar_t>(),
                                            first.const_data_ptr<scalar_t>(),
                                            second.const_data_ptr<scalar_t>(),
                                            num_pairs,
                                            grad1.mutable_data_ptr<scalar_t>(),
                                            grad2.mutable_data_ptr<scalar_t>());
      });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad1, grad2};
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CUDA, m) {
  m.impl("box_iou_rotated", &box_iou_rotated_cuda);
  m.impl("paired_iou_rotated", &paired_iou_rotated_cuda);
  m.impl("paired_iou_rotated_backward", &paired_iou_rotated_backward_cuda);
}

}  // namespace tcm_d2
