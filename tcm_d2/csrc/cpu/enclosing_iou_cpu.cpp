// GIoU and DIoU of aligned pairs of rotated boxes on the CPU.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <tuple>

#include "../checks.h"
#include "../enclosing_iou.h"

namespace tcm_d2 {
namespace {

// Pairs a thread should get at least, so that starting it pays.
constexpr int64_t kMinPairsPerThread = 1024;

template <Penalty penalty>
at::Tensor enclosed_iou_cpu(const at::Tensor& boxes1,
                            const at::Tensor& boxes2) {
  check_aligned(boxes1, boxes2);
  const at::Tensor first = boxes1.contiguous();
  const at::Tensor second = boxes2.contiguous();
  const int64_t num_pairs = first.size(0);
  at::Tensor values = at::empty({num_pairs}, first.options());
  AT_DISPATCH_FLOATING_TYPES(first.scalar_type(), "enclosed_iou_cpu", [&] {
    const scalar_t* data1 = first.const_data_ptr<scalar_t>();
    const scalar_t* data2 = second.const_data_ptr<scalar_t>();
    scalar_t* out = values.mutable_data_ptr<scalar_t>();
    at::parallel_for(
        0, num_pairs, kMinPairsPerThread, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            out[i] = static_cast<scalar_t>(
                enclosed_iou<penalty, double>(data1 + 5 * i, data2 + 5 * i));
          }
        });
  });
  return values;
}

template <Penalty penalty>
std::tuple<at::Tensor, at::Tensor> enclosed_iou_backward_cpu(
    const at::Tensor& grad_iou, const at::Tensor& boxes1,
    const at::Tensor& boxes2) {
  check_aligned(boxes1, boxes2);
  check_grad(grad_iou, boxes1);
  const at::Tensor first = boxes1.contiguous();
  const at::Tensor second = boxes2.contiguous();
  const at::Tensor scales = grad_iou.contiguous();
  const int64_t num_pairs = first.size(0);
  at::Tensor grad1 = at::empty({num_pairs, 5}, first.options());
  at::Tensor grad2 = at::empty({num_pairs, 5}, first.options());
  AT_DISPATCH_FLOATING_TYPES(
      first.scalar_type(), "enclosed_iou_backward_cpu", [&] {
        const scalar_t* data1 = first.const_data_ptr<scalar_t>();
        const scalar_t* data2 = second.const_data_ptr<scalar_t>();
        const scalar_t* scale = scales.const_data_ptr<scalar_t>();
        scalar_t* out1 = grad1.mutable_data_ptr<scalar_t>();
        scalar_t* out2 = grad2.mutable_data_ptr<scalar_t>();
        at::parallel_for(
            0, num_pairs, kMinPairsPerThread, [&](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i) {
                enclosed_iou_grad<penalty>(data1 + 5 * i, data2 + 5 * i,
                                           static_cast<double>(scale[i]),
                                           out1 + 5 * i, out2 + 5 * i);
              }
            });
      });
  return {grad1, grad2};
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) {
  m.impl("paired_giou_rotated", &enclosed_iou_cpu<Penalty::kHullArea>);
  m.impl("paired_giou_rotated_backward",
         &enclosed_iou_backward_cpu<Penalty::kHullArea>);
  m.impl("paired_diou_rotated", &enclosed_iou_cpu<Penalty::kCentreDistance>);
  m.impl("paired_diou_rotated_backward",
         &enclosed_iou_backward_cpu<Penalty::kCentreDistance>);
}

}  // namespace tcm_d2
