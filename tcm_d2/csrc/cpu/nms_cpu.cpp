// Greedy non-maximum suppression of rotated boxes on the CPU.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../checks.h"
#include "../rotated_geometry.h"

namespace tcm_d2 {
namespace {

// Sorted boxes settled at a time. One thread settles a block among itself, then
// all threads let its survivors suppress the later boxes: one parallel region a
// block, not one a kept box.
constexpr int64_t kBlock = 256;
// Later boxes a thread should get at least, so that starting it pays.
constexpr int64_t kMinBoxesPerThread = 256;

struct Candidates {
  std::vector<Rect<double>> rects;  // best score first
  const int64_t* labels;            // of the rects, or null: all one class
  double iou_threshold;

  bool suppresses(int64_t better, int64_t worse) const {
    return (labels == nullptr || labels[better] == labels[worse]) &&
           overlap(rects[better], rects[worse], false) > iou_threshold;
  }
};

// Flags of the boxes that greedy NMS drops. Each flag has one writer at a time,
// so the result doesn't depend on how threads share them. A byte each: threads
// can't write neighbouring bits.
std::vector<uint8_t> suppressed_flags(const Candidates& candidates) {
  const int64_t num_boxes = static_cast<int64_t>(candidates.rects.size());
  std::vector<uint8_t> suppressed(num_boxes, 0);
  std::vector<int64_t> survivors;
  for (int64_t first = 0; first < num_boxes; first += kBlock) {
    const int64_t last = std::min(first + kBlock, num_boxes);
    survivors.clear();
    for (int64_t i = first; i < last; ++i) {
      if (suppressed[i]) continue;
      survivors.push_back(i);
      for (int64_t j = i + 1; j < last; ++j) {
        if (!suppressed[j] && candidates.suppresses(i, j)) suppressed[j] = 1;
      }
    }
    at::parallel_for(last, num_boxes, kMinBoxesPerThread,
                     [&](int64_t begin, int64_t end) {
                       for (int64_t j = begin; j < end; ++j) {
                         if (suppressed[j]) continue;
                         for (const int64_t i : survivors) {
                           if (candidates.suppresses(i, j)) {
                             suppressed[j] = 1;
                             break;
                           }
                         }
                       }
                     });
  }
  return suppressed;
}

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
  Candidates candidates = {std::vector<Rect<double>>(num_boxes), nullptr,
                           iou_threshold};
  at::Tensor sorted_labels;
  if (labels.has_value()) {
    sorted_labels = labels->index_select(0, order);
    candidates.labels = sorted_labels.const_data_ptr<int64_t>();
  }
  AT_DISPATCH_FLOATING_TYPES(sorted.scalar_type(), "nms_rotated_cpu", [&] {
    const scalar_t* data = sorted.const_data_ptr<scalar_t>();
    for (int64_t i = 0; i < num_boxes; ++i) {
      candidates.rects[i] = make_rect<double>(data + 5 * i);
    }
  });

  const std::vector<uint8_t> suppressed = suppressed_flags(candidates);
  const int64_t num_kept =
      std::count(suppressed.begin(), suppressed.end(), uint8_t(0));
  at::Tensor keep = at::empty({num_kept}, order.options());
  int64_t* kept = keep.mutable_data_ptr<int64_t>();
  const int64_t* original = order.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < num_boxes; ++i) {
    if (!suppressed[i]) *kept++ = original[i];
  }
  return keep;
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) { m.impl("nms_rotated", &nms_rotated_cpu); }

}  // namespace tcm_d2
