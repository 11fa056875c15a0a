// Greedy non-maximum suppression of rotated boxes on CUDA. All of it stays on
// the device; only the number of kept boxes reaches the host.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>

#include "../checks.h"
#include "launch.h"
#include "nms_kernels.h"

namespace tcm_d2 {
namespace {

// What the kernels work on, allocated once: 81 bytes a box and one mask.
struct Workspace {
  at::Tensor rects, hulls, keys, removed, kept, survivors, counts, mask;

  explicit Workspace(const at::Tensor& boxes)
      : rects(
            at::empty({boxes.size(0), 7}, boxes.options().dtype(at::kDouble))),
        hulls(at::empty({boxes.size(0), 4}, boxes.options().dtype(at::kFloat))),
        keys(at::empty({boxes.size(0)}, boxes.options().dtype(at::kInt))),
        removed(at::zeros({boxes.size(0)}, boxes.options().dtype(at::kByte))),
        kept(at::zeros({boxes.size(0)}, boxes.options().dtype(at::kBool))),
        survivors(at::empty({kTile}, boxes.options().dtype(at::kInt))),
        counts(at::zeros({2}, boxes.options().dtype(at::kLong))),
        mask(at::empty({std::min<int64_t>(kTile, boxes.size(0)), kTileWords},
                       boxes.options().dtype(at::kLong))) {}

  Fates fates(int64_t max_kept) {
    int64_t* numbers = counts.mutable_data_ptr<int64_t>();
    return {removed.mutable_data_ptr<uint8_t>(),
            kept.mutable_data_ptr<bool>(),
            survivors.mutable_data_ptr<int32_t>(),
            reinterpret_cast<int32_t*>(numbers),
            numbers + 1,
            max_kept};
  }
};

static_assert(sizeof(Rect<double>) == 7 * sizeof(double), "rows of rects");
static_assert(sizeof(Hull) == 4 * sizeof(float), "rows of hulls");

SortedBoxes prepare(const at::Tensor& boxes, const int64_t* labels,
                    const int64_t* images, double iou_threshold,
                    Workspace* workspace, c10::cuda::CUDAStream stream) {
  auto* rects = reinterpret_cast<Rect<double>*>(
      workspace->rects.mutable_data_ptr<double>());
  auto* hulls =
      reinterpret_cast<Hull*>(workspace->hulls.mutable_data_ptr<float>());
  auto* keys =
      reinterpret_cast<uint32_t*>(workspace->keys.mutable_data_ptr<int32_t>());
  const int64_t num_boxes = boxes.size(0);
  AT_DISPATCH_FLOATING_TYPES(boxes.scalar_type(), "nms_rotated_cuda", [&] {
    prepare_boxes_kernel<scalar_t>
        <<<num_blocks(num_boxes, kColumns), kColumns, 0, stream>>>(
            boxes.const_data_ptr<scalar_t>(), labels, images, num_boxes, rects,
            hulls, keys);
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {rects, hulls, keys, labels, images, num_boxes, iou_threshold};
}

// Settles the boxes tile by tile, without waiting for the device.
void keep_greedily(const SortedBoxes& boxes, const Fates& fates, Word* mask,
                   c10::cuda::CUDAStream stream) {
  for (int64_t first = 0; first < boxes.num_boxes; first += kTile) {
    const int num_in_tile =
        static_cast<int>(std::min<int64_t>(kTile, boxes.num_boxes - first));
    const unsigned num_row_blocks = num_blocks(num_in_tile, kRows);
    suppression_mask_kernel<<<dim3(num_blocks(num_in_tile, kColumns),
                                   num_row_blocks),
                              kColumns, 0, stream>>>(boxes, fates, first,
                                                     num_in_tile, mask);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    greedy_reduce_kernel<<<1, kReduceThreads, 0, stream>>>(fates, first,
                                                           num_in_tile, mask);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    const int64_t later = first + kTile;
    if (later < boxes.num_boxes) {
      suppress_later_kernel<<<
          dim3(num_blocks(boxes.num_boxes - later, kColumns), num_row_blocks),
          kColumns, 0, stream>>>(boxes, fates, first, later);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    }
  }
}

// Of the boxes, best score first, those that are among the first of their
// image.
at::Tensor first_of_each_image(const at::Tensor& keep, const at::Tensor& images,
                               int64_t max_detections) {
  const auto [sorted, index] =
      at::sort(images.index_select(0, keep), /*stable=*/true, /*dim=*/0,
               /*descending=*/false);
  const at::Tensor position = at::arange(keep.size(0), keep.options());
  const at::Tensor rank = position - at::searchsorted(sorted, sorted);
  const at::Tensor is_first = at::empty_like(rank, at::kBool);
  is_first.index_put_({index}, rank < max_detections);
  return keep.masked_select(is_first);
}

at::Tensor nms_rotated_cuda(const at::Tensor& boxes, const at::Tensor& scores,
                            const std::optional<at::Tensor>& labels,
                            double iou_threshold,
                            const std::optional<at::Tensor>& image_ids,
                            std::optional<double> score_threshold,
                            std::optional<int64_t> max_detections) {
  check_nms(boxes, scores, labels, image_ids, max_detections);
  const c10::cuda::CUDAGuard guard(boxes.device());
  const at::Tensor order = score_order(scores, score_threshold);
  const int64_t num_boxes = order.size(0);
  if (num_boxes == 0) {
    return order;
  }
  const at::Tensor sorted = boxes.index_select(0, order).contiguous();
  const auto in_order = [&](const std::optional<at::Tensor>& values) {
    return values.has_value() ? values->index_select(0, order) : at::Tensor();
  };
  const at::Tensor sorted_labels = in_order(labels);
  const at::Tensor sorted_images = in_order(image_ids);
  const auto data = [](const at::Tensor& values) {
    return values.defined() ? values.const_data_ptr<int64_t>() : nullptr;
  };

  const auto stream = c10::cuda::getCurrentCUDAStream();
  Workspace workspace(sorted);
  const SortedBoxes prepared =
      prepare(sorted, data(sorted_labels), data(sorted_images), iou_threshold,
              &workspace, stream);
  // With one image, what comes after enough boxes isn't needed.
  const bool may_stop = max_detections.has_value() && !image_ids.has_value();
  const int64_t enough =
      may_stop ? *max_detections : std::numeric_limits<int64_t>::max();
  keep_greedily(
      prepared, workspace.fates(enough),
      reinterpret_cast<Word*>(workspace.mask.mutable_data_ptr<int64_t>()),
      stream);
  const at::Tensor kept = order.masked_select(workspace.kept);
  if (!max_detections.has_value()) {
    return kept;
  }
  return image_ids.has_value()
             ? first_of_each_image(kept, *image_ids, *max_detections)
             : kept.narrow(0, 0, std::min(*max_detections, kept.size(0)));
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CUDA, m) {
  m.impl("nms_rotated", &nms_rotated_cuda);
}

}  // namespace tcm_d2
