// Which points lie in which rotated boxes, on the CPU.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "../checks.h"
#include "../rotated_geometry.h"

namespace tcm_d2 {
namespace {

// Tests a thread should get at least, so that starting it pays.
constexpr int64_t kMinTestsPerThread = 8192;

// Boxes by column, so that the inner loop runs over neighbours in memory. A box
// without an area has half sides of -1, which no distance is within.
struct BoxColumns {
  std::vector<double> cx, cy, cos, sin, half_w, half_h;
};

template <typename Scalar>
BoxColumns make_columns(const at::Tensor& boxes) {
  const int64_t num_boxes = boxes.size(0);
  const Scalar* data = boxes.const_data_ptr<Scalar>();
  BoxColumns columns;
  for (auto* column : {&columns.cx, &columns.cy, &columns.cos, &columns.sin,
                       &columns.half_w, &columns.half_h}) {
    column->resize(num_boxes);
  }
  for (int64_t i = 0; i < num_boxes; ++i) {
    const auto rect = make_rect<double>(data + 5 * i);
    const bool has_area = rect.area > 0;
    columns.cx[i] = rect.cx;
    columns.cy[i] = rect.cy;
    columns.cos[i] = rect.cos;
    columns.sin[i] = rect.sin;
    columns.half_w[i] = has_area ? rect.half_w : -1.0;
    columns.half_h[i] = has_area ? rect.half_h : -1.0;
  }
  return columns;
}

void test_point(double x, double y, const BoxColumns& boxes, int64_t num_boxes,
                bool* inside) {
  const double* cx = boxes.cx.data();
  const double* cy = boxes.cy.data();
  const double* cos = boxes.cos.data();
  const double* sin = boxes.sin.data();
  const double* half_w = boxes.half_w.data();
  const double* half_h = boxes.half_h.data();
  for (int64_t j = 0; j < num_boxes; ++j) {
    const double dx = x - cx[j];
    const double dy = y - cy[j];
    const double along_w = std::fabs(dx * cos[j] - dy * sin[j]);
    const double along_h = std::fabs(dx * sin[j] + dy * cos[j]);
    inside[j] = (along_w <= half_w[j]) & (along_h <= half_h[j]);
  }
}

at::Tensor points_in_rotated_boxes_cpu(const at::Tensor& points,
                                       const at::Tensor& boxes) {
  check_points(points, boxes);
  const at::Tensor rows = points.contiguous();
  const int64_t num_points = rows.size(0);
  const int64_t num_boxes = boxes.size(0);
  at::Tensor inside =
      at::empty({num_points, num_boxes}, boxes.options().dtype(at::kBool));
  if (inside.numel() == 0) {
    return inside;
  }
  AT_DISPATCH_FLOATING_TYPES(
      rows.scalar_type(), "points_in_rotated_boxes_cpu", [&] {
        const BoxColumns columns = make_columns<scalar_t>(boxes.contiguous());
        const scalar_t* data = rows.const_data_ptr<scalar_t>();
        bool* out = inside.mutable_data_ptr<bool>();
        const int64_t grain = kMinTestsPerThread / num_boxes + 1;
        at::parallel_for(0, num_points, grain, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            test_point(data[2 * i], data[2 * i + 1], columns, num_boxes,
                       out + i * num_boxes);
          }
        });
      });
  return inside;
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) {
  m.impl("points_in_rotated_boxes", &points_in_rotated_boxes_cpu);
}

}  // namespace tcm_d2
