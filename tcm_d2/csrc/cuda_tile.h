// A tile of pairs for a block of threads: every thread has a column, a box, and
// goes down the rows, boxes in shared memory. Few pairs have upright bounds
// that meet, so those are listed first and then shared among all threads:
// geometry in the loop over rows would keep a warp waiting for its few busy
// threads.

#pragma once

#include <cstdint>

#include "geometry/rotated.h"

namespace tcm_d2 {

constexpr int kColumns = 128;  // threads of a block
constexpr int kRows = 32;

struct PairList {
  int count;
  uint16_t pairs[kRows * kColumns];  // row * kColumns + column
};

__device__ inline void list_pair(PairList* list, int row, int column) {
  const int place = atomicAdd(&list->count, 1);
  list->pairs[place] = static_cast<uint16_t>(row * kColumns + column);
}

__device__ inline Hull empty_hull() { return make_hull(Rect<double>{}); }

}  // namespace tcm_d2
