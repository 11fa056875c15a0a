// The geometry for blocks of boxes and pairs, in the widest vectors that the
// processor has. Whatever their width, the results are the same to the last
// bit.

#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "../geometry/rotated_gradient.h"

namespace tcm_d2 {

// Boxes or pairs handled at a time: 64 pairs, prepared, take 7 KB.
constexpr int kBlock = 64;

struct alignas(64) BoxBlock {
  double cx[kBlock] = {}, cy[kBlock] = {}, w[kBlock] = {}, h[kBlock] = {},
         angle_deg[kBlock] = {};
};

struct alignas(64) RectBlock {
  double cx[kBlock] = {}, cy[kBlock] = {}, half_w[kBlock] = {},
         half_h[kBlock] = {}, cos[kBlock] = {}, sin[kBlock] = {},
         area[kBlock] = {};

  Rect<double> get(int i) const {
    return {cx[i], cy[i], half_w[i], half_h[i], cos[i], sin[i], area[i]};
  }
  void set(int i, const Rect<double>& rect) {
    cx[i] = rect.cx;
    cy[i] = rect.cy;
    half_w[i] = rect.half_w;
    half_h[i] = rect.half_h;
    cos[i] = rect.cos;
    sin[i] = rect.sin;
    area[i] = rect.area;
  }
};

struct alignas(64) GradBlock {
  double cx[kBlock], cy[kBlock], w[kBlock], h[kBlock], angle_deg[kBlock];

  BoxGrad<double> get(int i) const {
    return {cx[i], cy[i], w[i], h[i], angle_deg[i]};
  }
};

// Hulls of many boxes, one array a bound.
struct HullArrays {
  std::vector<float> x_low, x_high, y_low, y_high;
};

// Each function handles the first count entries (it may write more, up to the
// block's end).
struct RectKernels {
  void (*make_rects)(const BoxBlock& boxes, int count, RectBlock* rects);
  void (*overlaps)(const RectBlock& rects1, const RectBlock& rects2, int count,
                   bool iof, double* out);
  // Derivatives of scale * IoU wrt both boxes.
  void (*overlap_grads)(const RectBlock& rects1, const RectBlock& rects2,
                        int count, const double* scale, GradBlock* grads1,
                        GradBlock* grads2);
  // flags[i] = 1 where the hull meets hull begin + i of the arrays, else 0.
  void (*hull_flags)(const Hull& hull, const HullArrays& hulls, int64_t begin,
                     int64_t count, uint8_t* flags);
};

// The kernels for this processor.
const RectKernels& rect_kernels();

template <typename Scalar>
void load_boxes(const Scalar* boxes, int count, BoxBlock* block) {
  for (int i = 0; i < count; ++i) {
    block->cx[i] = static_cast<double>(boxes[5 * i]);
    block->cy[i] = static_cast<double>(boxes[5 * i + 1]);
    block->w[i] = static_cast<double>(boxes[5 * i + 2]);
    block->h[i] = static_cast<double>(boxes[5 * i + 3]);
    block->angle_deg[i] = static_cast<double>(boxes[5 * i + 4]);
  }
}

// Calls visit(i) for each set flag. The flags end at a multiple of 8; those
// from count on are cleared.
template <typename Visit>
void for_each_flag(uint8_t* flags, int64_t count, const Visit& visit) {
  for (int64_t i = count; i % 8 != 0; ++i) flags[i] = 0;
  for (int64_t first = 0; first < count; first += 8) {
    uint64_t eight;
    std::memcpy(&eight, flags + first, 8);
    if (eight == 0) continue;
    for (int64_t i = first; i < first + 8; ++i) {
      if (flags[i]) visit(i);
    }
  }
}

}  // namespace tcm_d2
