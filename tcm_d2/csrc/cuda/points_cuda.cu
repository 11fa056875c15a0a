// Which points lie in which rotated boxes, on CUDA.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>

#include "../checks.h"
#include "launch.h"
#include "points_kernels.h"

namespace tcm_d2 {
namespace {

at::Tensor points_in_rotated_boxes_cuda(const at::Tensor& points,
                                        const at::Tensor& boxes) {
  check_points(points, boxes);
  const c10::cuda::CUDAGuard guard(boxes.device());
  const at::Tensor rows = points.contiguous();
  const at::Tensor columns = boxes.contiguous();
  const int64_t num_points = rows.size(0);
  const int64_t num_boxes = columns.size(0);
  at::Tensor inside =
      at::empty({num_points, num_boxes}, boxes.options().dtype(at::kBool));
  if (inside.numel() == 0) {
    return inside;
  }
  const dim3 grid(num_blocks(num_boxes, kColumns),
                  std::min(num_blocks(num_points, kRows), kMaxGridY));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(
      rows.scalar_type(), "points_in_rotated_boxes_cuda", [&] {
        points_in_rotated_boxes_kernel<scalar_t><<<grid, kColumns, 0, stream>>>(
            rows.const_data_ptr<scalar_t>(), columns.const_data_ptr<scalar_t>(),
            num_points, num_boxes, inside.mutable_data_ptr<bool>());
      });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return inside;
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CUDA, m) {
  m.impl("points_in_rotated_boxes", &points_in_rotated_boxes_cuda);
}

}  // namespace tcm_d2
