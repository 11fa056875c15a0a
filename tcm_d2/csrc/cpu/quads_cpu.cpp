// Quadrilaterals on the CPU: their IoU, and the smallest rectangles around
// them.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <vector>

#include "../checks.h"
#include "../quad_geometry.h"

namespace tcm_d2 {
namespace {

// Items a thread should get at least, so that starting it pays.
constexpr int64_t kMinQuadsPerThread = 1024;
constexpr int64_t kMinBoundsPerThread = 16384;

template <typename Scalar>
std::vector<Quad> make_quads(const at::Tensor& quads) {
  const Scalar* data = quads.const_data_ptr<Scalar>();
  std::vector<Quad> result(quads.size(0));
  for (int64_t i = 0; i < quads.size(0); ++i) {
    result[i] = make_quad(data + 8 * i);
  }
  return result;
}

at::Tensor quad_iou_cpu(const at::Tensor& quads1, const at::Tensor& quads2) {
  check_quad_pair(quads1, quads2);
  const at::Tensor rows = quads1.contiguous();
  const at::Tensor columns = quads2.contiguous();
  const int64_t num_rows = rows.size(0);
  const int64_t num_columns = columns.size(0);
  at::Tensor iou = at::empty({num_rows, num_columns}, rows.options());
  if (iou.numel() == 0) {
    return iou;
  }
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "quad_iou_cpu", [&] {
    const auto first = make_quads<scalar_t>(rows);
    const auto second = make_quads<scalar_t>(columns);
    scalar_t* out = iou.mutable_data_ptr<scalar_t>();
    const int64_t grain = kMinBoundsPerThread / num_columns + 1;
    at::parallel_for(0, num_rows, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = 0; j < num_columns; ++j) {
          out[i * num_columns + j] =
              static_cast<scalar_t>(quad_iou(first[i], second[j]));
        }
      }
    });
  });
  return iou;
}

at::Tensor paired_quad_iou_cpu(const at::Tensor& quads1,
                               const at::Tensor& quads2) {
  check_quad_pair(quads1, quads2);
  TORCH_CHECK(quads1.size(0) == quads2.size(0), "quads2: expected ",
              quads1.size(0), " quads as in quads1, got ", quads2.size(0));
  const at::Tensor first = quads1.contiguous();
  const at::Tensor second = quads2.contiguous();
  at::Tensor iou = at::empty({first.size(0)}, first.options());
  AT_DISPATCH_FLOATING_TYPES(first.scalar_type(), "paired_quad_iou_cpu", [&] {
    const scalar_t* data1 = first.const_data_ptr<scalar_t>();
    const scalar_t* data2 = second.const_data_ptr<scalar_t>();
    scalar_t* out = iou.mutable_data_ptr<scalar_t>();
    at::parallel_for(
        0, first.size(0), kMinQuadsPerThread, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            out[i] = static_cast<scalar_t>(
                quad_iou(make_quad(data1 + 8 * i), make_quad(data2 + 8 * i)));
          }
        });
  });
  return iou;
}

at::Tensor minimum_area_boxes_cpu(const at::Tensor& quads) {
  check_quads(quads, "quads");
  const at::Tensor rows = quads.contiguous();
  at::Tensor boxes = at::empty({rows.size(0), 5}, rows.options());
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "minimum_area_boxes_cpu", [&] {
    const scalar_t* data = rows.const_data_ptr<scalar_t>();
    scalar_t* out = boxes.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, rows.size(0), kMinQuadsPerThread,
                     [&](int64_t begin, int64_t end) {
                       for (int64_t i = begin; i < end; ++i) {
                         write_minimum_area_box(data + 8 * i, out + 5 * i);
                       }
                     });
  });
  return boxes;
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) {
  m.impl("quad_iou", &quad_iou_cpu);
  m.impl("paired_quad_iou", &paired_quad_iou_cpu);
  m.impl("minimum_area_boxes", &minimum_area_boxes_cpu);
}

}  // namespace tcm_d2
