// The sources of the CUDA kernels behind plain functions, run by the emulation.

#include "cuda_emulation.h"

// After it: these are to be compiled for the CPU.
#include "boxes/enclosing_iou_cuda.cu"
#include "boxes/iou_cuda.cu"
#include "boxes/nms_cuda.cu"
#include "boxes/points_cuda.cu"
#include "quads/iou_cuda.cu"
#include "quads/smallest_boxes_cuda.cu"

using namespace tcm_d2;

namespace {

const Cuda kPlace = {nullptr};

}  // namespace

extern "C" {

void limit_grids(int64_t max_x, int64_t max_y) {
  kMaxGridX = max_x;
  kMaxGridY = max_y;
}

void pairwise_iou(const float* boxes1, int64_t num1, const float* boxes2,
                  int64_t num2, bool iof, float* out) {
  box_iou_rotated(kPlace, boxes1, num1, boxes2, num2, iof, out);
}

void paired_iou_of_boxes(const double* boxes1, const double* boxes2,
                         int64_t num, double* out) {
  paired_iou(kPlace, boxes1, boxes2, num, out);
}

void paired_grads(const double* grad_iou, const double* boxes1,
                  const double* boxes2, int64_t num, double* grad1,
                  double* grad2) {
  paired_iou_backward(kPlace, grad_iou, boxes1, boxes2, num, grad1, grad2);
}

void enclosed_iou_of_boxes(bool of_hull, const float* boxes1,
                           const float* boxes2, int64_t num, float* out) {
  enclosed_iou(kPlace, of_hull ? Penalty::kHullArea : Penalty::kCentreDistance,
               boxes1, boxes2, num, out);
}

void enclosed_grads(bool of_hull, const float* grad_iou, const float* boxes1,
                    const float* boxes2, int64_t num, float* grad1,
                    float* grad2) {
  enclosed_iou_backward(kPlace,
                        of_hull ? Penalty::kHullArea : Penalty::kCentreDistance,
                        grad_iou, boxes1, boxes2, num, grad1, grad2);
}

void points_in_boxes(const float* points, int64_t num_points,
                     const float* boxes, int64_t num_boxes, bool* inside) {
  points_in_rotated_boxes(kPlace, points, num_points, boxes, num_boxes, inside);
}

void pairwise_quad_iou(const float* quads1, int64_t num1, const float* quads2,
                       int64_t num2, float* out) {
  quad_iou(kPlace, quads1, num1, quads2, num2, out);
}

void paired_iou_of_quads(const float* quads1, const float* quads2, int64_t num,
                         float* out) {
  paired_quad_iou(kPlace, quads1, quads2, num, out);
}

void smallest_boxes(const float* quads, int64_t num, float* boxes) {
  minimum_area_boxes(kPlace, quads, num, boxes);
}

// Boxes best score first.
void nms(const float* boxes, const int64_t* labels, const int64_t* images,
         int64_t num_boxes, double iou_threshold, int64_t max_kept,
         bool* kept) {
  const NmsInput<float> input = {boxes, labels, images, num_boxes,
                                 iou_threshold};
  // Rubbish where nothing is written.
  std::vector<uint64_t> workspace(nms_workspace_bytes(num_boxes) / 8 + 1,
                                  ~uint64_t(0));
  nms_rotated(kPlace, input, max_kept, workspace.data(), kept);
}

}  // extern "C"
