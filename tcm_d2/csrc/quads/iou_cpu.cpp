// IoU of quadrilaterals on the CPU.

#include <ATen/Parallel.h>

#include <vector>

#include "../geometry/quad.h"
#include "kernels.h"

namespace tcm_d2 {
namespace {

// Items a thread should get at least, so that starting it pays.
constexpr int64_t kMinQuadsPerThread = 1024;
constexpr int64_t kMinBoundsPerThread = 16384;

template <typename Scalar>
std::vector<Quad> make_quads(const Scalar* corners, int64_t num) {
  std::vector<Quad> quads(num);
  for (int64_t i = 0; i < num; ++i) quads[i] = make_quad(corners + 8 * i);
  return quads;
}

}  // namespace

template <typename Scalar>
void quad_iou(Cpu, const Scalar* quads1, int64_t num1, const Scalar* quads2,
              int64_t num2, Scalar* iou) {
  const std::vector<Quad> first = make_quads(quads1, num1);
  const std::vector<Quad> second = make_quads(quads2, num2);
  const int64_t grain = kMinBoundsPerThread / (num2 + 1) + 1;
  at::parallel_for(0, num1, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < num2; ++j) {
        iou[i * num2 + j] = static_cast<Scalar>(quad_iou(first[i], second[j]));
      }
    }
  });
}

template <typename Scalar>
void paired_quad_iou(Cpu, const Scalar* quads1, const Scalar* quads2,
                     int64_t num, Scalar* iou) {
  at::parallel_for(0, num, kMinQuadsPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      iou[i] = static_cast<Scalar>(
          quad_iou(make_quad(quads1 + 8 * i), make_quad(quads2 + 8 * i)));
    }
  });
}

#define TCM_D2_FOR(Scalar)                                                    \
  template void quad_iou(Cpu, const Scalar*, int64_t, const Scalar*, int64_t, \
                         Scalar*);                                            \
  template void paired_quad_iou(Cpu, const Scalar*, const Scalar*, int64_t,   \
                                Scalar*)
TCM_D2_FOR(float);
TCM_D2_FOR(double);
#undef TCM_D2_FOR

}  // namespace tcm_d2
