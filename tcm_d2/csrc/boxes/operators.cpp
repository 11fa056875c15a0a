// The operators on rotated boxes of torch.ops.tcm_d2.

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>

#include "../host.h"
#include "kernels.h"

namespace tcm_d2 {
namespace {

void check_boxes(const at::Tensor& boxes, const char* name) {
  TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 5, name,
              ": expected shape (N, 5), got ", boxes.sizes());
  check_floating(boxes, name);
}

void check_pair(const at::Tensor& boxes1, const at::Tensor& boxes2) {
  check_boxes(boxes1, "boxes1");
  check_boxes(boxes2, "boxes2");
  check_like(boxes2, "boxes2", boxes1, "boxes1");
}

void check_aligned(const at::Tensor& boxes1, const at::Tensor& boxes2) {
  check_pair(boxes1, boxes2);
  TORCH_CHECK(boxes1.size(0) == boxes2.size(0), "boxes2: expected ",
              boxes1.size(0), " boxes as in boxes1, got ", boxes2.size(0));
}

at::Tensor box_iou_rotated_op(const at::Tensor& boxes1,
                              const at::Tensor& boxes2, bool iof) {
  check_pair(boxes1, boxes2);
  const Array rows(boxes1), columns(boxes2);
  at::Tensor overlaps = boxes1.new_empty({rows.size(), columns.size()});
  dispatch(boxes1, [&](auto place, auto zero) {
    using Scalar = decltype(zero);
    box_iou_rotated<Scalar>(place, rows, rows.size(), columns, columns.size(),
                            iof, overlaps.mutable_data_ptr<Scalar>());
  });
  return overlaps;
}

// Calls run(place, boxes1, boxes2, num, values) for aligned pairs.
template <typename Run>
at::Tensor for_pairs(const at::Tensor& boxes1, const at::Tensor& boxes2,
                     const Run& run) {
  check_aligned(boxes1, boxes2);
  const Array first(boxes1), second(boxes2);
  at::Tensor values = boxes1.new_empty({first.size()});
  dispatch(boxes1, [&](auto place, auto zero) {
    using Scalar = decltype(zero);
    run(place, static_cast<const Scalar*>(first),
        static_cast<const Scalar*>(second), first.size(),
        values.mutable_data_ptr<Scalar>());
  });
  return values;
}

// Calls run(place, grad_iou, boxes1, boxes2, num, grad1, grad2) for them.
template <typename Run>
std::tuple<at::Tensor, at::Tensor> for_pairs_backward(
    const at::Tensor& grad_iou, const at::Tensor& boxes1,
    const at::Tensor& boxes2, const Run& run) {
  check_aligned(boxes1, boxes2);
  check_vector(grad_iou, "grad_iou", boxes1);
  check_like(grad_iou, "grad_iou", boxes1, "boxes1");
  const Array first(boxes1), second(boxes2), scale(grad_iou);
  at::Tensor grad1 = boxes1.new_empty({first.size(), 5});
  at::Tensor grad2 = boxes1.new_empty({first.size(), 5});
  dispatch(boxes1, [&](auto place, auto zero) {
    using Scalar = decltype(zero);
    run(place, static_cast<const Scalar*>(scale),
        static_cast<const Scalar*>(first), static_cast<const Scalar*>(second),
        first.size(), grad1.mutable_data_ptr<Scalar>(),
        grad2.mutable_data_ptr<Scalar>());
  });
  return {grad1, grad2};
}

at::Tensor paired_iou_op(const at::Tensor& boxes1, const at::Tensor& boxes2) {
  return for_pairs(boxes1, boxes2,
                   [](auto... arguments) { paired_iou(arguments...); });
}

std::tuple<at::Tensor, at::Tensor> paired_iou_backward_op(
    const at::Tensor& grad_iou, const at::Tensor& boxes1,
    const at::Tensor& boxes2) {
  return for_pairs_backward(grad_iou, boxes1, boxes2, [](auto... arguments) {
    paired_iou_backward(arguments...);
  });
}

template <Penalty penalty>
at::Tensor enclosed_iou_op(const at::Tensor& boxes1, const at::Tensor& boxes2) {
  return for_pairs(boxes1, boxes2, [](auto place, auto... arguments) {
    enclosed_iou(place, penalty, arguments...);
  });
}

template <Penalty penalty>
std::tuple<at::Tensor, at::Tensor> enclosed_iou_backward_op(
    const at::Tensor& grad_iou, const at::Tensor& boxes1,
    const at::Tensor& boxes2) {
  return for_pairs_backward(
      grad_iou, boxes1, boxes2, [](auto place, auto... arguments) {
        enclosed_iou_backward(place, penalty, arguments...);
      });
}

at::Tensor points_in_rotated_boxes_op(const at::Tensor& points,
                                      const at::Tensor& boxes) {
  check_boxes(boxes, "boxes");
  TORCH_CHECK(points.dim() == 2 && points.size(1) == 2,
              "points: expected shape (P, 2), got ", points.sizes());
  check_like(points, "points", boxes, "boxes");
  const Array rows(points), columns(boxes);
  at::Tensor inside = boxes.new_empty({rows.size(), columns.size()}, at::kBool);
  dispatch(boxes, [&](auto place, auto zero) {
    using Scalar = decltype(zero);
    points_in_rotated_boxes<Scalar>(place, rows, rows.size(), columns,
                                    columns.size(),
                                    inside.mutable_data_ptr<bool>());
  });
  return inside;
}

// Indices of the boxes whose score is above the threshold, best score first,
// equal scores by index.
at::Tensor score_order(const at::Tensor& scores,
                       std::optional<double> score_threshold) {
  if (scores.is_cpu() && scores.scalar_type() == at::kFloat) {
    const Array values(scores);
    // The threshold is rounded, as in a comparison of torch's.
    const auto threshold =
        score_threshold.has_value()
            ? std::make_optional(static_cast<float>(*score_threshold))
            : std::nullopt;
    const std::vector<int64_t> order =
        score_order(Cpu(), values, values.size(), threshold);
    at::Tensor result =
        scores.new_empty({static_cast<int64_t>(order.size())}, at::kLong);
    std::copy(order.begin(), order.end(), result.mutable_data_ptr<int64_t>());
    return result;
  }
  if (!score_threshold.has_value()) {
    return scores.argsort(/*stable=*/true, /*dim=*/0, /*descending=*/true);
  }
  const at::Tensor index = scores.gt(*score_threshold).nonzero().squeeze(1);
  const at::Tensor order =
      scores.index_select(0, index).argsort(/*stable=*/true, /*dim=*/0,
                                            /*descending=*/true);
  return index.index_select(0, order);
}

// The indices in order of the candidates that are kept.
template <typename Scalar>
at::Tensor keep(Cpu place, const NmsInput<Scalar>& input, int64_t max_kept,
                const at::Tensor& order, const at::Tensor&) {
  const std::vector<int32_t> kept = nms_rotated(place, input, max_kept);
  at::Tensor keep = order.new_empty({static_cast<int64_t>(kept.size())});
  const int64_t* original = order.const_data_ptr<int64_t>();
  std::transform(kept.begin(), kept.end(), keep.mutable_data_ptr<int64_t>(),
                 [original](int32_t rank) { return original[rank]; });
  return keep;
}

#if defined(TCM_D2_WITH_CUDA)
// Of the boxes, best score first, those that are among the first of their
// image.
at::Tensor first_of_each_image(const at::Tensor& keep, const at::Tensor& images,
                               int64_t max_kept) {
  const auto [sorted, index] = images.sort(/*stable=*/true, /*dim=*/0,
                                           /*descending=*/false);
  const at::Tensor place = keep.new_ones(keep.sizes()).cumsum(0).sub(1);
  // Where the image of each begins.
  const at::Tensor begin = std::get<0>(
      place.mul(sorted.ne(sorted.roll({1}, {0}))).cummax(/*dim=*/0));
  const at::Tensor is_first = keep.new_empty(keep.sizes(), at::kBool);
  is_first.index_put_({index}, place.sub(begin).lt(max_kept));
  return keep.masked_select(is_first);
}

template <typename Scalar>
at::Tensor keep(Cuda place, const NmsInput<Scalar>& input, int64_t max_kept,
                const at::Tensor& order, const at::Tensor& images) {
  at::Tensor workspace =
      order.new_empty({nms_workspace_bytes(input.num_boxes)}, at::kByte);
  at::Tensor flags = order.new_empty({input.num_boxes}, at::kBool);
  // With one image, what comes after enough boxes isn't needed.
  const int64_t enough =
      images.defined() ? std::numeric_limits<int64_t>::max() : max_kept;
  nms_rotated(place, input, enough, workspace.mutable_data_ptr(),
              flags.mutable_data_ptr<bool>());
  const at::Tensor keep = order.masked_select(flags);
  if (max_kept >= keep.size(0)) return keep;
  return images.defined()
             ? first_of_each_image(keep, images.masked_select(flags), max_kept)
             : keep.narrow(0, 0, max_kept);
}
#endif

at::Tensor nms_rotated_op(const at::Tensor& boxes, const at::Tensor& scores,
                          const std::optional<at::Tensor>& labels,
                          double iou_threshold,
                          const std::optional<at::Tensor>& image_ids,
                          std::optional<double> score_threshold,
                          std::optional<int64_t> max_detections) {
  check_boxes(boxes, "boxes");
  TORCH_CHECK(boxes.size(0) < (int64_t(1) << 28), "boxes: too many, ",
              boxes.size(0));
  check_vector(scores, "scores", boxes);
  if (labels.has_value()) check_integers(*labels, "labels", boxes);
  if (image_ids.has_value()) check_integers(*image_ids, "image_ids", boxes);
  TORCH_CHECK(max_detections.value_or(0) >= 0,
              "max_detections: expected at least 0, got ",
              max_detections.value_or(0));
  const at::Tensor order = score_order(scores, score_threshold);
  if (order.size(0) == 0) return order;
  const Array sorted(boxes.index_select(0, order));
  const auto in_order = [&](const std::optional<at::Tensor>& values) {
    return values.has_value() ? values->index_select(0, order) : at::Tensor();
  };
  const at::Tensor sorted_labels = in_order(labels);
  const at::Tensor sorted_images = in_order(image_ids);
  const auto data = [](const at::Tensor& values) {
    return values.defined() ? values.const_data_ptr<int64_t>() : nullptr;
  };
  at::Tensor kept;
  dispatch(boxes, [&](auto place, auto zero) {
    using Scalar = decltype(zero);
    const NmsInput<Scalar> input = {sorted, data(sorted_labels),
                                    data(sorted_images), sorted.size(),
                                    iou_threshold};
    kept = keep(place, input,
                max_detections.value_or(std::numeric_limits<int64_t>::max()),
                order, sorted_images);
  });
  return kept;
}

void register_all(torch::Library& m) {
  m.impl("box_iou_rotated", &box_iou_rotated_op);
  m.impl("paired_iou_rotated", &paired_iou_op);
  m.impl("paired_iou_rotated_backward", &paired_iou_backward_op);
  m.impl("paired_giou_rotated", &enclosed_iou_op<Penalty::kHullArea>);
  m.impl("paired_giou_rotated_backward",
         &enclosed_iou_backward_op<Penalty::kHullArea>);
  m.impl("paired_diou_rotated", &enclosed_iou_op<Penalty::kCentreDistance>);
  m.impl("paired_diou_rotated_backward",
         &enclosed_iou_backward_op<Penalty::kCentreDistance>);
  m.impl("points_in_rotated_boxes", &points_in_rotated_boxes_op);
  m.impl("nms_rotated", &nms_rotated_op);
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) { register_all(m); }
#if defined(TCM_D2_WITH_CUDA)
TORCH_LIBRARY_IMPL(tcm_d2, CUDA, m) { register_all(m); }
#endif

}  // namespace tcm_d2
