// Greedy non-maximum suppression of rotated boxes on the CPU.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <vector>

#include "../checks.h"
#include "../rotated_geometry.h"

namespace tcm_d2 {
namespace {

// Boxes a thread should get at least when one kept box is compared with the
// rest: most are rejected by their circles within nanoseconds.
constexpr int64_t kMinBoxesPerThread = 8192;

at::Tensor nms_rotated_cpu(const at::Tensor& boxes, const at::Tensor& scores,
                           const std::optional<at::Tensor>& labels,
                           double iou_threshold) {
  check_nms(boxes, scores, labels);
  const int64_t num_boxes = boxes.size(0);
  if (num_boxes == 0) {
    return at::empty({0}, boxes.options().dtype(at::kLong));
  }
  const at::Tensor order =
      at::argsort(scores, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const at::Tensor sorted = boxes.index_select(0, order);
  at::Tensor sorted_labels;
  const int64_t* label = nullptr;
  if (labels.has_value()) {
    sorted_labels = labels->index_select(0, order);
    label = sorted_labels.const_data_ptr<int64_t>();
  }

  std::vector<Rect<double>> rects(num_boxes);
  AT_DISPATCH_FLOATING_TYPES(sorted.scalar_type(), "nms_rotated_cpu", [&] {
    const scalar_t* data = sorted.const_data_ptr<scalar_t>();
    for (int64_t i = 0; i < num_boxes; ++i) {
      rects[i] = make_rect<double>(data + 5 * i);
    }
  });

  // Threads share the boxes below a kept one; each flag has one writer, so the
  // result doesn't depend on how they share. A byte per flag, not a bit.
  std::vector<uint8_t> suppressed(num_boxes, 0);
  at::Tensor keep = at::empty({num_boxes}, order.options());
  int64_t* kept = keep.mutable_data_ptr<int64_t>();
  const int64_t* original = order.const_data_ptr<int64_t>();
  int64_t num_kept = 0;
  for (int64_t i = 0; i < num_boxes; ++i) {
    if (suppressed[i]) {
      continue;
    }
    kept[num_kept++] = original[i];
    const Rect<double>& best = rects[i];
    at::parallel_for(
        i + 1, num_boxes, kMinBoxesPerThread, [&](int64_t begin, int64_t end) {
          for (int64_t j = begin; j < end; ++j) {
            if (suppressed[j] || (label != nullptr && label[j] != label[i])) {
              continue;
            }
            if (overlap(best, rects[j], false) > iou_threshold) {
              suppressed[j] = 1;
            }
          }
        });
  }
  return keep.narrow(0, 0, num_kept).clone();
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) { m.impl("nms_rotated", &nms_rotated_cpu); }

}  // namespace tcm_d2
