// The kernels of rotated boxes. Boxes are contiguous rows cx, cy, w, h,
// angle_deg, Scalar is float or double, and results lie in memory of the
// caller, at the same place. Defined in *_cpu.cpp and *_cuda.cu.

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "../geometry/enclosing_iou.h"
#include "../place.h"

namespace tcm_d2 {

// overlaps (num1, num2), over the area of boxes1 or over that of the union.
template <typename Scalar>
void box_iou_rotated(Cpu, const Scalar* boxes1, int64_t num1,
                     const Scalar* boxes2, int64_t num2, bool iof,
                     Scalar* overlaps);
template <typename Scalar>
void box_iou_rotated(Cuda, const Scalar* boxes1, int64_t num1,
                     const Scalar* boxes2, int64_t num2, bool iof,
                     Scalar* overlaps);

// iou (num) of aligned pairs.
template <typename Scalar>
void paired_iou(Cpu, const Scalar* boxes1, const Scalar* boxes2, int64_t num,
                Scalar* iou);
template <typename Scalar>
void paired_iou(Cuda, const Scalar* boxes1, const Scalar* boxes2, int64_t num,
                Scalar* iou);

// grad1, grad2 (num, 5) from the gradients of iou.
template <typename Scalar>
void paired_iou_backward(Cpu, const Scalar* grad_iou, const Scalar* boxes1,
                         const Scalar* boxes2, int64_t num, Scalar* grad1,
                         Scalar* grad2);
template <typename Scalar>
void paired_iou_backward(Cuda, const Scalar* grad_iou, const Scalar* boxes1,
                         const Scalar* boxes2, int64_t num, Scalar* grad1,
                         Scalar* grad2);

// GIoU or DIoU (num) of aligned pairs.
template <typename Scalar>
void enclosed_iou(Cpu, Penalty penalty, const Scalar* boxes1,
                  const Scalar* boxes2, int64_t num, Scalar* values);
template <typename Scalar>
void enclosed_iou(Cuda, Penalty penalty, const Scalar* boxes1,
                  const Scalar* boxes2, int64_t num, Scalar* values);

template <typename Scalar>
void enclosed_iou_backward(Cpu, Penalty penalty, const Scalar* grad_iou,
                           const Scalar* boxes1, const Scalar* boxes2,
                           int64_t num, Scalar* grad1, Scalar* grad2);
template <typename Scalar>
void enclosed_iou_backward(Cuda, Penalty penalty, const Scalar* grad_iou,
                           const Scalar* boxes1, const Scalar* boxes2,
                           int64_t num, Scalar* grad1, Scalar* grad2);

// inside (num_points, num_boxes) of points x, y.
template <typename Scalar>
void points_in_rotated_boxes(Cpu, const Scalar* points, int64_t num_points,
                             const Scalar* boxes, int64_t num_boxes,
                             bool* inside);
template <typename Scalar>
void points_in_rotated_boxes(Cuda, const Scalar* points, int64_t num_points,
                             const Scalar* boxes, int64_t num_boxes,
                             bool* inside);

// Indices of the scores above the threshold, best first, equal ones by index.
std::vector<int64_t> score_order(Cpu, const float* scores, int64_t num,
                                 std::optional<float> threshold);

// Candidates of the suppression, best score first. Labels and images are null
// where all boxes share one.
template <typename Scalar>
struct NmsInput {
  const Scalar* boxes;
  const int64_t* labels;
  const int64_t* images;
  int64_t num_boxes;
  double iou_threshold;
};

// The candidates that are kept, at most max_kept of each image, in order.
template <typename Scalar>
std::vector<int32_t> nms_rotated(Cpu, const NmsInput<Scalar>& input,
                                 int64_t max_kept);
// Flags those that are kept; all later ones are false when max_kept are found,
// whatever their images. The workspace has nms_workspace_bytes().
template <typename Scalar>
void nms_rotated(Cuda, const NmsInput<Scalar>& input, int64_t max_kept,
                 void* workspace, bool* kept);
int64_t nms_workspace_bytes(int64_t num_boxes);

}  // namespace tcm_d2
