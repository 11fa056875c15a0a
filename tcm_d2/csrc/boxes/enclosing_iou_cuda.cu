// GIoU and DIoU of aligned pairs of rotated boxes on CUDA, a thread a pair.

#include <cstdint>

#include "../cuda_launch.h"
#include "kernels.h"

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

}  // namespace

template <typename Scalar>
void enclosed_iou(Cuda place, Penalty penalty, const Scalar* boxes1,
                  const Scalar* boxes2, int64_t num, Scalar* values) {
  if (num == 0) return;
  const auto kernel =
      penalty == Penalty::kHullArea
          ? &enclosed_iou_kernel<Penalty::kHullArea, Scalar>
          : &enclosed_iou_kernel<Penalty::kCentreDistance, Scalar>;
  launch(place, kernel, num_blocks(num, kThreads), kThreads, boxes1, boxes2,
         num, values);
}

template <typename Scalar>
void enclosed_iou_backward(Cuda place, Penalty penalty, const Scalar* grad_iou,
                           const Scalar* boxes1, const Scalar* boxes2,
                           int64_t num, Scalar* grad1, Scalar* grad2) {
  if (num == 0) return;
  const auto kernel =
      penalty == Penalty::kHullArea
          ? &enclosed_iou_backward_kernel<Penalty::kHullArea, Scalar>
          : &enclosed_iou_backward_kernel<Penalty::kCentreDistance, Scalar>;
  launch(place, kernel, num_blocks(num, kThreads), kThreads, grad_iou, boxes1,
         boxes2, num, grad1, grad2);
}

#define TCM_D2_FOR(Scalar)                                                   \
  template void enclosed_iou(Cuda, Penalty, const Scalar*, const Scalar*,    \
                             int64_t, Scalar*);                              \
  template void enclosed_iou_backward(Cuda, Penalty, const Scalar*,          \
                                      const Scalar*, const Scalar*, int64_t, \
                                      Scalar*, Scalar*)
TCM_D2_FOR(float);
TCM_D2_FOR(double);
#undef TCM_D2_FOR

}  // namespace tcm_d2
