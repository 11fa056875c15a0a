// Greedy non-maximum suppression of rotated boxes on CUDA: a bit mask of who
// suppresses whom among the sorted boxes, then one block walks down the mask.
// The mask stays on the device; only the number of kept boxes reaches the host.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>

#include "../checks.h"
#include "../rotated_geometry.h"

namespace tcm_d2 {
namespace {

using Word = unsigned long long;  // 64 boxes, one bit each
constexpr int kBits = 64;
constexpr int kReduceThreads = 1024;
constexpr int64_t kMaxGridY = 65535;

// Word (i, c) of the mask: which of the boxes 64 c ... 64 c + 63 box i
// suppresses. Only c >= i / 64 is written, and only later boxes are marked.
template <typename Scalar>
__global__ void __launch_bounds__(kBits)
    suppression_mask_kernel(const Scalar* boxes, const int64_t* labels,
                            const int64_t* images, int64_t num_boxes,
                            int64_t num_words, double iou_threshold,
                            Word* mask) {
  __shared__ Rect<double> columns[kBits];
  __shared__ int64_t column_labels[kBits];
  __shared__ int64_t column_images[kBits];
  const int64_t column_block = blockIdx.x;
  const int64_t first_column = column_block * kBits;
  const int64_t columns_left = num_boxes - first_column;
  const int count =
      columns_left < kBits ? static_cast<int>(columns_left) : kBits;
  if (threadIdx.x < count) {
    columns[threadIdx.x] =
        make_rect<double>(boxes + 5 * (first_column + threadIdx.x));
    column_labels[threadIdx.x] =
        labels == nullptr ? 0 : labels[first_column + threadIdx.x];
    column_images[threadIdx.x] =
        images == nullptr ? 0 : images[first_column + threadIdx.x];
  }
  __syncthreads();
  for (int64_t row_block = blockIdx.y; row_block <= column_block;
       row_block += gridDim.y) {
    const int64_t row = row_block * kBits + threadIdx.x;
    if (row >= num_boxes) {
      continue;
    }
    const Rect<double> rect = make_rect<double>(boxes + 5 * row);
    const int64_t label = labels == nullptr ? 0 : labels[row];
    const int64_t image = images == nullptr ? 0 : images[row];
    Word word = 0;
    // On the diagonal only boxes after this one.
    const int start = row_block == column_block ? threadIdx.x + 1 : 0;
    for (int k = start; k < count; ++k) {
      if (column_labels[k] == label && column_images[k] == image &&
          overlap(rect, columns[k], false) > iou_threshold) {
        word |= Word(1) << k;
      }
    }
    mask[row * num_words + column_block] = word;
  }
}

// One block goes down the boxes, 64 at a time: one thread settles who survives
// among the 64, then all threads let the survivors suppress the later words.
__global__ void __launch_bounds__(kReduceThreads)
    greedy_reduce_kernel(const Word* mask, int64_t num_boxes, int64_t num_words,
                         Word* removed, bool* keep) {
  __shared__ Word survivors;
  for (int64_t block = 0; block < num_words; ++block) {
    const int64_t first = block * kBits;
    const int64_t left = num_boxes - first;
    const int count = left < kBits ? static_cast<int>(left) : kBits;
    if (threadIdx.x == 0) {
      Word gone = removed[block];
      Word alive = 0;
      for (int k = 0; k < count; ++k) {
        if (!((gone >> k) & 1)) {
          alive |= Word(1) << k;
          gone |= mask[(first + k) * num_words + block];
        }
      }
      survivors = alive;
    }
    __syncthreads();
    const Word alive = survivors;
    if (threadIdx.x < count) {
      keep[first + threadIdx.x] = (alive >> threadIdx.x) & 1;
    }
    for (int64_t word = block + 1 + threadIdx.x; word < num_words;
         word += kReduceThreads) {
      Word gone = removed[word];
      for (Word rest = alive; rest != 0; rest &= rest - 1) {
        const int k = __ffsll(static_cast<long long>(rest)) - 1;
        gone |= mask[(first + k) * num_words + word];
      }
      removed[word] = gone;
    }
    __syncthreads();  // removed and survivors are read in the next round
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

  const int64_t num_words = (num_boxes + kBits - 1) / kBits;
  const auto word_options = boxes.options().dtype(at::kLong);
  at::Tensor mask = at::empty({num_boxes, num_words}, word_options);
  at::Tensor removed = at::zeros({num_words}, word_options);
  at::Tensor keep = at::empty({num_boxes}, boxes.options().dtype(at::kBool));
  Word* mask_words = reinterpret_cast<Word*>(mask.mutable_data_ptr<int64_t>());
  const dim3 grid(
      static_cast<unsigned>(num_words),
      static_cast<unsigned>(num_words < kMaxGridY ? num_words : kMaxGridY));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(sorted.scalar_type(), "nms_rotated_cuda", [&] {
    suppression_mask_kernel<scalar_t><<<grid, kBits, 0, stream>>>(
        sorted.const_data_ptr<scalar_t>(), data(sorted_labels),
        data(sorted_images), num_boxes, num_words, iou_threshold, mask_words);
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  greedy_reduce_kernel<<<1, kReduceThreads, 0, stream>>>(
      mask_words, num_boxes, num_words,
      reinterpret_cast<Word*>(removed.mutable_data_ptr<int64_t>()),
      keep.mutable_data_ptr<bool>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  const at::Tensor kept = order.masked_select(keep);
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
