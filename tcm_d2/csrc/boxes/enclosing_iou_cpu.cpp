// GIoU and DIoU of aligned pairs of rotated boxes on the CPU.

#include <ATen/Parallel.h>

#include "kernels.h"

namespace tcm_d2 {
namespace {

// Pairs a thread should get at least, so that starting it pays.
constexpr int64_t kMinPairsPerThread = 1024;

template <Penalty penalty, typename Scalar>
void write_values(const Scalar* boxes1, const Scalar* boxes2, int64_t num,
                  Scalar* values) {
  at::parallel_for(0, num, kMinPairsPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      values[i] = static_cast<Scalar>(
          enclosed_iou<penalty, double>(boxes1 + 5 * i, boxes2 + 5 * i));
    }
  });
}

template <Penalty penalty, typename Scalar>
void write_grads(const Scalar* grad_iou, const Scalar* boxes1,
                 const Scalar* boxes2, int64_t num, Scalar* grad1,
                 Scalar* grad2) {
  at::parallel_for(0, num, kMinPairsPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      enclosed_iou_grad<penalty>(boxes1 + 5 * i, boxes2 + 5 * i,
                                 static_cast<double>(grad_iou[i]),
                                 grad1 + 5 * i, grad2 + 5 * i);
    }
  });
}

}  // namespace

template <typename Scalar>
void enclosed_iou(Cpu, Penalty penalty, const Scalar* boxes1,
                  const Scalar* boxes2, int64_t num, Scalar* values) {
  penalty == Penalty::kHullArea
      ? write_values<Penalty::kHullArea>(boxes1, boxes2, num, values)
      : write_values<Penalty::kCentreDistance>(boxes1, boxes2, num, values);
}

template <typename Scalar>
void enclosed_iou_backward(Cpu, Penalty penalty, const Scalar* grad_iou,
                           const Scalar* boxes1, const Scalar* boxes2,
                           int64_t num, Scalar* grad1, Scalar* grad2) {
  penalty == Penalty::kHullArea
      ? write_grads<Penalty::kHullArea>(grad_iou, boxes1, boxes2, num, grad1,
                                        grad2)
      : write_grads<Penalty::kCentreDistance>(grad_iou, boxes1, boxes2, num,
                                              grad1, grad2);
}

#define TCM_D2_FOR(Scalar)                                                   \
  template void enclosed_iou(Cpu, Penalty, const Scalar*, const Scalar*,     \
                             int64_t, Scalar*);                              \
  template void enclosed_iou_backward(Cpu, Penalty, const Scalar*,           \
                                      const Scalar*, const Scalar*, int64_t, \
                                      Scalar*, Scalar*)
TCM_D2_FOR(float);
TCM_D2_FOR(double);
#undef TCM_D2_FOR

}  // namespace tcm_d2
