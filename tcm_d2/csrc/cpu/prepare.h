// Boxes of a tensor, prepared by all threads.

#pragma once

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "rect_kernels.h"

namespace tcm_d2 {

// Boxes that a thread should get at least, so that starting it pays.
constexpr int64_t kMinBoxesPerThread = 4096;

// Calls visit(i, rect) for each of the contiguous (N, 5) boxes, on any thread.
template <typename Visit>
void for_each_rect(const at::Tensor& boxes, const Visit& visit) {
  const RectKernels& kernels = rect_kernels();
  AT_DISPATCH_FLOATING_TYPES(boxes.scalar_type(), "prepare_boxes", [&] {
    const scalar_t* data = boxes.const_data_ptr<scalar_t>();
    at::parallel_for(
        0, boxes.size(0), kMinBoxesPerThread, [&](int64_t begin, int64_t end) {
          BoxBlock block;
          RectBlock rects;
          for (int64_t first = begin; first < end; first += kBlock) {
            const int count =
                static_cast<int>(std::min<int64_t>(kBlock, end - first));
            load_boxes(data + 5 * first, count, &block);
            kernels.make_rects(block, count, &rects);
            for (int i = 0; i < count; ++i) {
              visit(first + i, rects.get(i));
            }
          }
        });
  });
}

}  // namespace tcm_d2
