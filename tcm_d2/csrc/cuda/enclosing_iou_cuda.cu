// GIoU and DIoU of aligned pairs of rotated boxes on CUDA, a thread a pair.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>

#include "../checks.h"
#include "../enclosing_iou.h"
#include "launch.h"

namespace tcm_d2 {
namespace {

constexpr int kThreads = 128;
template <Penalty penalty, typename Scalar>
__global__ void __launch_bounds__(kThreads)
    enclosed_iou_kernel(const Scalar* boxes1, const Scalar* boxes2,
                        int64_t num_pairs, Scalar* values) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < num_pairs; i += step) {
    values[i] = static_cast<Scalar>(
        enclosed_iou<penalty, double>(boxes1 + 5 * i, boxes2 + 5 * i));
  }
}

template <Penalty penalty, typename Scalar>
__global__ void __launch_bounds__(kThreads)
    enclosed_iou_backward_kernel(const Scalar* grad_iou, const Scalar* boxes1,
                                 const Scalar* boxes2, int64_t num_pairs,
                                 Scalar* grad1, Scalar* grad2) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < num_pairs; i += step) {
    enclosed_iou_grad<penalty>(boxes1 + 5 * i, boxes2 + 5 * i,
                               static_cast<double>(grad_iou[i]), grad1 + 5 * i,
                               grad2 + 5 * i);
  }
}

template <Penalty penalty>
at::Tensor enclosed_iou_cuda(const at::Tensor& boxes1,
                             const at::Tensor& boxes2) {
  check_aligned(boxes1, boxes2);
  const c10::cuda::CUDAGuard guard(boxes1.device());
  const at::Tensor first = boxes1.contiguous();
  const at::Tensor second = boxes2.contiguous();
  const int64_t num_pairs = first.size(0);
  at::Tensor values = at::empty({num_pairs}, first.options());
  if (num_pairs == 0) {
    return values;
  }
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(first.scalar_type(), "enclosed_iou_cuda", [&] {
    enclosed_iou_kernel<penalty, scalar_t>
        <<<num_blocks(num_pairs, kThreads), kThreads, 0, stream>>>(
            first.const_data_ptr<scalar_t>(), second.const_data_ptr<scalar_t>(),
            num_pairs, values.mutable_data_ptr<scalar_t>());
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return values;
}

template <Penalty penalty>
std::tuple<at::Tensor, at::Tensor> enclosed_iou_backward_cuda(
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
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(
      first.scalar_type(), "enclosed_iou_backward_cuda", [&] {
        enclosed_iou_backward_kernel<penalty, scalar_t>
            <<<num_blocks(num_pairs, kThreads), kThreads, 0, stream>>>(
                scales.const_data_ptr<scalar_t>(),
                first.const_data_ptr<scalar_t>(),
                second.const_data_ptr<scalar_t>(), num_pairs,
                grad1.mutable_data_ptr<scalar_t>(),
                grad2.mutable_data_ptr<scalar_t>());
      });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {grad1, grad2};
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CUDA, m) {
  m.impl("paired_giou_rotated", &enclosed_iou_cuda<Penalty::kHullArea>);
  m.impl("paired_giou_rotated_backward",
         &enclosed_iou_backward_cuda<Penalty::kHullArea>);
  m.impl("paired_diou_rotated", &enclosed_iou_cuda<Penalty::kCentreDistance>);
  m.impl("paired_diou_rotated_backward",
         &enclosed_iou_backward_cuda<Penalty::kCentreDistance>);
}

}  // namespace tcm_d2
