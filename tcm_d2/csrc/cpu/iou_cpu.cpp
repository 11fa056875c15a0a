// Pairwise and paired IoU of rotated boxes on the CPU.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "../checks.h"
#include "../rotated_geometry.h"

namespace tcm_d2 {
namespace {

// Pairs a thread should get at least, so that starting it pays.
constexpr int64_t kMinPairsPerThread = 2048;

template <typename Scalar>
std::vector<Rect<double>> make_rects(const at::Tensor& boxes) {
  const Scalar* data = boxes.const_data_ptr<Scalar>();
  std::vector<Rect<double>> rects(boxes.size(0));
  for (int64_t i = 0; i < boxes.size(0); ++i) {
    rects[i] = make_rect<double>(data + 5 * i);
  }
  return rects;
}

at::Tensor box_iou_rotated_cpu(const at::Tensor& boxes1,
                               const at::Tensor& boxes2, bool iof) {
  check_pair(boxes1, boxes2);
  const at::Tensor rows = boxes1.contiguous();
  const at::Tensor columns = boxes2.contiguous();
  const int64_t num_rows = rows.size(0);
  const int64_t num_columns = columns.size(0);
  at::Tensor overlaps = at::empty({num_rows, num_columns}, rows.options());
  if (overlaps.numel() == 0) {
    return overlaps;
  }
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "box_iou_rotated_cpu", [&] {
    const auto rects1 = make_rects<scalar_t>(rows);
    const auto rects2 = make_rects<scalar_t>(columns);
    scalar_t* out = overlaps.mutable_data_ptr<scalar_t>();
    const int64_t grain = kMinPairsPerThread / num_columns + 1;
    at::parallel_for(0, num_rows, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = 0; j < num_columns; ++j) {
          out[i * num_columns + j] =
              static_cast<scalar_t>(overlap(rects1[i], rects2[j], iof));
        }
      }
    });
  });
  return overlaps;
}

at::Tensor paired_iou_rotated_cpu(const at::Tensor& boxes1,
                                  const at::Tensor& boxes2) {
  check_aligned(boxes1, boxes2);
  const at::Tensor first = boxes1.contiguous();
  const at::Tensor second = boxes2.contiguous();
  const int64_t num_pairs = first.size(0);
  at::Tensor iou = at::empty({num_pairs}, first.options());
  AT_DISPATCH_FLOATING_TYPES(
      first.scalar_type(), "paired_iou_rotated_cpu", [&] {
        const scalar_t* data1 = first.const_data_ptr<scalar_t>();
        const scalar_t* data2 = second.const_data_ptr<scalar_t>();
        scalar_t* out = iou.mutable_data_ptr<scalar_t>();
        at::parallel_for(
            0, num_pairs, kMinPairsPerThread, [&](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i) {
                out[i] = static_cast<scalar_t>(
                    overlap(make_rect<double>(data1 + 5 * i),
                            make_rect<double>(data2 + 5 * i), false));
              }
            });
      });
  return iou;
}

std::tuple<at::Tensor, at::Tensor> paired_iou_rotated_backward_cpu(
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
      first.scalar_type(), "paired_iou_rotated_backward_cpu", [&] {
        const scalar_t* data1 = first.const_data_ptr<scalar_t>();
        const scalar_t* data2 = second.const_data_ptr<scalar_t>();
        const scalar_t* scale = scales.const_data_ptr<scalar_t>();
        scalar_t* out1 = grad1.mutable_data_ptr<scalar_t>();
        scalar_t* out2 = grad2.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, num_pairs, kMinPairsPerThread,
                         [&](int64_t begin, int64_t end) {
                           for (int64_t i = begin; i < end; ++i) {
                             overlap_grad(make_rect<double>(data1 + 5 * i),
                                          make_rect<double>(data2 + 5 * i),
                                          static_cast<double>(scale[i]),
                                          out1 + 5 * i, out2 + 5 * i);
                           }
                         });
      });
  return {grad1, grad2};
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) {
  m.impl("box_iou_rotated", &box_iou_rotated_cpu);
  m.impl("paired_iou_rotated", &paired_iou_rotated_cpu);
  m.impl("paired_iou_rotated_backward", &paired_iou_rotated_backward_cpu);
}

}  // namespace tcm_d2
