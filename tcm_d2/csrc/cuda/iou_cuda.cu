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
#include "iou_kernels.h"
#include "launch.h"

namespace tcm_d2 {
namespace {

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
  TORCH_CHECK(num_columns < kMaxGridX * kColumns, "boxes2: too many boxes, ",
              num_columns);
  const dim3 grid(num_blocks(num_columns, kColumns),
                  std::min(num_blocks(num_rows, kRows), kMaxGridY));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "box_iou_rotated_cuda", [&] {
    box_iou_rotated_kernel<scalar_t><<<grid, kColumns, 0, stream>>>(
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
  const unsigned grid = num_blocks(num_pairs, kColumns);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(
      first.scalar_type(), "paired_iou_rotated_cuda", [&] {
        paired_iou_rotated_kernel<scalar_t><<<grid, kColumns, 0, stream>>>(
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
  const unsigned grid = num_blocks(num_pairs, kColumns);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(
      first.scalar_type(), "paired_iou_rotated_backward_cuda", [&] {
        paired_iou_rotated_backward_kernel<scalar_t>
            <<<grid, kColumns, 0, stream>>>(scales.const_data_ptr<scalar_t>(),
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
