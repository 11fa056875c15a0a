// Boxes prepared by all threads.

#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

#include "rect_kernels.h"

namespace tcm_d2 {

// Boxes that a thread should get at least, so that starting it pays.
constexpr int64_t kMinBoxesPerThread = 4096;

// Calls visit(i, rect) for each of the (num, 5) boxes, on any thread.
template <typename Scalar, typename Visit>
void for_each_rect(const Scalar* boxes, int64_t num, const Visit& visit) {
  const RectKernels& kernels = rect_kernels();
  at::parallel_for(0, num, kMinBoxesPerThread, [&](int64_t begin, int64_t end) {
    BoxBlock block;
    RectBlock rects;
    for (int64_t first = begin; first < end; first += kBlock) {
      const int count =
          static_cast<int>(std::min<int64_t>(kBlock, end - first));
      load_boxes(boxes + 5 * first, count, &block);
      kernels.make_rects(block, count, &rects);
      for (int i = 0; i < count; ++i) visit(first + i, rects.get(i));
    }
  });
}

}  // namespace tcm_d2
