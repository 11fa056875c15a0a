// Quadrilaterals on CUDA: their IoU, and the smallest rectangles around them.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>

#include "../checks.h"
#include "launch.h"
#include "quads_kernels.h"

namespace tcm_d2 {
namespace {

at::Tensor quad_iou_cuda(const at::Tensor& quads1, const at::Tensor& quads2) {
  check_quad_pair(quads1, quads2);
  const c10::cuda::CUDAGuard guard(quads1.device());
  const at::Tensor rows = quads1.contiguous();
  const at::Tensor columns = quads2.contiguous();
  const int64_t num_rows = rows.size(0);
  const int64_t num_columns = columns.size(0);
  at::Tensor iou = at::empty({num_rows, num_columns}, rows.options());
  if (iou.numel() == 0) {
    return iou;
  }
  const dim3 grid(num_blocks(num_columns, kColumns),
                  std::min(num_blocks(num_rows, kRows), kMaxGridY));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "quad_iou_cuda", [&] {
    quad_iou_kernel<scalar_t><<<grid, kColumns, 0, stream>>>(
        rows.const_data_ptr<scalar_t>(), columns.const_data_ptr<scalar_t>(),
        num_rows, num_columns, iou.mutable_data_ptr<scalar_t>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return iou;
}

at::Tensor paired_quad_iou_cuda(const at::Tensor& quads1,
                                const at::Tensor& quads2) {
  check_quad_pair(quads1, quads2);
  TORCH_CHECK(quads1.size(0) == quads2.size(0), "quads2: expected ",
              quads1.size(0), " quads as in quads1, got ", quads2.size(0));
  const c10::cuda::CUDAGuard guard(quads1.device());
  const at::Tensor first = quads1.contiguous();
  const at::Tensor second = quads2.contiguous();
  const int64_t num_pairs = first.size(0);
  at::Tensor iou = at::empty({num_pairs}, first.options());
  if (num_pairs == 0) {
    return iou;
  }
  const unsigned grid = num_blocks(num_pairs, kColumns);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(first.scalar_type(), "paired_quad_iou_cuda", [&] {
    paired_quad_iou_kernel<scalar_t><<<grid, kColumns, 0, stream>>>(
        first.const_data_ptr<scalar_t>(), second.const_data_ptr<scalar_t>(),
        num_pairs, iou.mutable_data_ptr<scalar_t>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return iou;
}

at::Tensor minimum_area_boxes_cuda(const at::Tensor& quads) {
  check_quads(quads, "quads");
  const c10::cuda::CUDAGuard guard(quads.device());
  const at::Tensor rows = quads.contiguous();
  const int64_t num_quads = rows.size(0);
  at::Tensor boxes = at::empty({num_quads, 5}, rows.options());
  if (num_quads == 0) {
    return boxes;
  }
  const unsigned grid = num_blocks(num_quads, kColumns);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(
      rows.scalar_type(), "minimum_area_boxes_cuda", [&] {
        minimum_area_boxes_kernel<scalar_t><<<grid, kColumns, 0, stream>>>(
            rows.const_data_ptr<scalar_t>(), num_quads,
            boxes.mutable_data_ptr<scalar_t>());
      });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return boxes;
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CUDA, m) {
  m.impl("quad_iou", &quad_iou_cuda);
  m.impl("paired_quad_iou", &paired_quad_iou_cuda);
  m.impl("minimum_area_boxes", &minimum_area_boxes_cuda);
}

}  // namespace tcm_d2
