// Which points lie in which rotated boxes, on the CPU.

#include <ATen/Parallel.h>

#include <cmath>
#include <vector>

#include "../geometry/rotated.h"
#include "kernels.h"

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
BoxColumns make_columns(const Scalar* boxes, int64_t num_boxes) {
  BoxColumns columns;
  for (auto* column : {&columns.cx, &columns.cy, &columns.cos, &columns.sin,
                       &columns.half_w, &columns.half_h}) {
    column->resize(num_boxes);
  }
  for (int64_t i = 0; i < num_boxes; ++i) {
    const auto rect = make_rect<double>(boxes + 5 * i);
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

}  // namespace

template <typename Scalar>
void points_in_rotated_boxes(Cpu, const Scalar* points, int64_t num_points,
                             const Scalar* boxes, int64_t num_boxes,
                             bool* inside) {
  const BoxColumns columns = make_columns(boxes, num_boxes);
  const int64_t grain = kMinTestsPerThread / (num_boxes + 1) + 1;
  at::parallel_for(0, num_points, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      test_point(static_cast<double>(points[2 * i]),
                 static_cast<double>(points[2 * i + 1]), columns, num_boxes,
                 inside + i * num_boxes);
    }
  });
}

template void points_in_rotated_boxes(Cpu, const float*, int64_t, const float*,
                                      int64_t, bool*);
template void points_in_rotated_boxes(Cpu, const double*, int64_t,
                                      const double*, int64_t, bool*);

}  // namespace tcm_d2
