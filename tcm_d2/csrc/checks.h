// What every kernel asks of its tensors. The Python wrappers check first, with
// friendlier words; these guard direct calls of torch.ops.tcm_d2.

#pragma once

#include <ATen/ATen.h>
#include <torch/library.h>

#include <cstdint>
#include <optional>

namespace tcm_d2 {

inline void check_boxes(const at::Tensor& boxes, const char* name) {
  TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 5, name,
              ": expected shape (N, 5), got ", boxes.sizes());
  TORCH_CHECK(
      boxes.scalar_type() == at::kFloat || boxes.scalar_type() == at::kDouble,
      name, ": expected float32 or float64, got ", boxes.scalar_type());
}

inline void check_pair(const at::Tensor& boxes1, const at::Tensor& boxes2) {
  check_boxes(boxes1, "boxes1");
  check_boxes(boxes2, "boxes2");
  TORCH_CHECK(boxes1.scalar_type() == boxes2.scalar_type(),
              "boxes2: expected the dtype of boxes1, ", boxes1.scalar_type(),
              ", got ", boxes2.scalar_type());
  TORCH_CHECK(boxes1.device() == boxes2.device(),
              "boxes2: expected the device of boxes1, ", boxes1.device(),
              ", got ", boxes2.device());
}

inline void check_aligned(const at::Tensor& boxes1, const at::Tensor& boxes2) {
  check_pair(boxes1, boxes2);
  TORCH_CHECK(boxes1.size(0) == boxes2.size(0), "boxes2: expected ",
              boxes1.size(0), " boxes as in boxes1, got ", boxes2.size(0));
}

inline void check_grad(const at::Tensor& grad_iou, const at::Tensor& boxes) {
  TORCH_CHECK(grad_iou.dim() == 1 && grad_iou.size(0) == boxes.size(0),
              "grad_iou: expected shape (", boxes.size(0), ",), got ",
              grad_iou.sizes());
  TORCH_CHECK(grad_iou.scalar_type() == boxes.scalar_type() &&
                  grad_iou.device() == boxes.device(),
              "grad_iou: expected dtype and device of the boxes, got ",
              grad_iou.scalar_type(), " on ", grad_iou.device());
}

inline void check_groups(const at::Tensor& groups, const char* name,
                         const at::Tensor& boxes) {
  TORCH_CHECK(groups.dim() == 1 && groups.size(0) == boxes.size(0), name,
              ": expected shape (", boxes.size(0), ",), got ", groups.sizes());
  TORCH_CHECK(groups.scalar_type() == at::kLong, name, ": expected int64, got ",
              groups.scalar_type());
  TORCH_CHECK(groups.device() == boxes.device(), name,
              ": expected the device of boxes, ", boxes.device(), ", got ",
              groups.device());
}

inline void check_nms(const at::Tensor& boxes, const at::Tensor& scores,
                      const std::optional<at::Tensor>& labels,
                      const std::optional<at::Tensor>& image_ids,
                      std::optional<int64_t> max_detections) {
  check_boxes(boxes, "boxes");
  TORCH_CHECK(boxes.size(0) < (int64_t(1) << 29), "boxes: too many, ",
              boxes.size(0));
  TORCH_CHECK(scores.dim() == 1 && scores.size(0) == boxes.size(0),
              "scores: expected shape (", boxes.size(0), ",), got ",
              scores.sizes());
  TORCH_CHECK(scores.device() == boxes.device(),
              "scores: expected the device of boxes, ", boxes.device(),
              ", got ", scores.device());
  if (labels.has_value()) check_groups(*labels, "labels", boxes);
  if (image_ids.has_value()) check_groups(*image_ids, "image_ids", boxes);
  TORCH_CHECK(max_detections.value_or(0) >= 0,
              "max_detections: expected at least 0, got ",
              max_detections.value_or(0));
}

// Indices of the boxes whose score is above the threshold, best score first,
// equal scores by index.
inline at::Tensor score_order(const at::Tensor& scores,
                              std::optional<double> score_threshold) {
  if (!score_threshold.has_value()) {
    return at::argsort(scores, /*stable=*/true, /*dim=*/0,
                       /*descending=*/true);
  }
  const at::Tensor index = at::nonzero(scores > *score_threshold).squeeze(1);
  const at::Tensor order =
      at::argsort(scores.index_select(0, index), /*stable=*/true, /*dim=*/0,
                  /*descending=*/true);
  return index.index_select(0, order);
}

inline void check_points(const at::Tensor& points, const at::Tensor& boxes) {
  check_boxes(boxes, "boxes");
  TORCH_CHECK(points.dim() == 2 && points.size(1) == 2,
              "points: expected shape (P, 2), got ", points.sizes());
  TORCH_CHECK(points.scalar_type() == boxes.scalar_type() &&
                  points.device() == boxes.device(),
              "points: expected dtype and device of the boxes, got ",
              points.scalar_type(), " on ", points.device());
}

inline void check_quads(const at::Tensor& quads, const char* name) {
  TORCH_CHECK(quads.dim() == 3 && quads.size(1) == 4 && quads.size(2) == 2,
              name, ": expected shape (N, 4, 2), got ", quads.sizes());
  TORCH_CHECK(
      quads.scalar_type() == at::kFloat || quads.scalar_type() == at::kDouble,
      name, ": expected float32 or float64, got ", quads.scalar_type());
}

inline void check_quad_pair(const at::Tensor& quads1,
                            const at::Tensor& quads2) {
  check_quads(quads1, "quads1");
  check_quads(quads2, "quads2");
  TORCH_CHECK(quads1.scalar_type() == quads2.scalar_type() &&
                  quads1.device() == quads2.device(),
              "quads2: expected dtype and device of quads1, got ",
              quads2.scalar_type(), " on ", quads2.device());
}

}  // namespace tcm_d2
