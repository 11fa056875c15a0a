// Greedy non-maximum suppression of rotated boxes on CUDA. All of it stays on
// the device, and the host waits for nothing.
//
// The sorted boxes are settled kTile at a time: a bit mask of who suppresses
// whom in the tile, one block that walks down that mask, and then the tile's
// survivors suppress later boxes. The mask of one tile is all the memory that
// doesn't grow with the number of boxes alone, and a box that is gone costs
// nothing more.

#include <cstdint>

#include "../cuda_launch.h"
#include "../cuda_tile.h"
#include "kernels.h"

namespace tcm_d2 {
namespace {

using Word = unsigned long long;  // 64 boxes, one bit each
constexpr int kBits = 64;
constexpr int kTile = 4096;
constexpr int kTileWords = kTile / kBits;
constexpr int kWordsPerTile = kColumns / kBits;  // of a tile of pairs, a row
constexpr int kReduceThreads = 1024;
constexpr int kReduceParts = kReduceThreads / kTileWords;
static_assert(kTileWords * kReduceParts == kReduceThreads, "one word a thread");

// The boxes, best score first.
struct SortedBoxes {
  const Rect<double>* rects;
  const Hull* hulls;
  const uint32_t* keys;   // of label and image: different where one of them is,
                          // but for accidents
  const int64_t* labels;  // null: all the same
  const int64_t* images;
  int64_t num_boxes;
  double iou_threshold;
};

// What has become of them.
struct Fates {
  uint8_t* removed;
  bool* kept;
  int32_t* survivors;      // of the tile, relative to its first box
  int32_t* num_survivors;  // of the tile
  int64_t* num_kept;       // so far
  int64_t max_kept;        // enough: later tiles needn't be settled
};

// What the kernels work on: 77 bytes a box and one mask.
struct Workspace {
  Rect<double>* rects;
  Word* mask;
  int64_t* num_kept;
  int32_t* num_survivors;
  Hull* hulls;
  uint32_t* keys;
  int32_t* survivors;
  uint8_t* removed;
  int64_t bytes;

  // In the order of the alignments.
  Workspace(void* memory, int64_t num_boxes) : bytes(0) {
    const int64_t mask_rows = num_boxes < kTile ? num_boxes : kTile;
    take(memory, num_boxes, &rects);
    take(memory, mask_rows * kTileWords, &mask);
    take(memory, 1, &num_kept);
    take(memory, 2, &num_survivors);
    take(memory, num_boxes, &hulls);
    take(memory, num_boxes, &keys);
    take(memory, kTile, &survivors);
    take(memory, num_boxes, &removed);
  }

 private:
  template <typename T>
  void take(void* memory, int64_t count, T** part) {
    *part = reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(memory) + bytes);
    bytes += count * static_cast<int64_t>(sizeof(T));
  }
};

__device__ inline uint32_t mixed(uint64_t value) {
  value = (value ^ (value >> 31)) * 0xD6E8FEB86659FD93u;
  return static_cast<uint32_t>(value >> 32);
}

__device__ inline bool suppresses(const SortedBoxes& boxes, int64_t better,
                                  int64_t worse) {
  return (boxes.labels == nullptr ||
          boxes.labels[better] == boxes.labels[worse]) &&
         (boxes.images == nullptr ||
          boxes.images[better] == boxes.images[worse]) &&
         overlap(boxes.rects[better], boxes.rects[worse], false) >
             boxes.iou_threshold;
}

template <typename Scalar>
__global__ void __launch_bounds__(kColumns)
    prepare_boxes_kernel(NmsInput<Scalar> input, Workspace workspace,
                         bool* kept) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  if (i == 0) {
    *workspace.num_survivors = 0;
    *workspace.num_kept = 0;
  }
  if (i >= input.num_boxes) {
    return;
  }
  const Rect<double> rect = make_rect<double>(input.boxes + 5 * i);
  workspace.rects[i] = rect;
  workspace.hulls[i] = make_hull(rect);
  workspace.keys[i] =
      (input.labels == nullptr ? 0 : mixed(input.labels[i])) +
      (input.images == nullptr ? 0 : 31 * mixed(input.images[i]));
  workspace.removed[i] = 0;
  kept[i] = false;
}

// Rows of a tile of pairs, in shared memory.
struct RowHulls {
  Hull hulls[kRows];
  uint32_t keys[kRows];
};

// Lists the pairs of this thread's column, box `column`, with the rows.
__device__ inline void list_column(const SortedBoxes& boxes, int64_t column,
                                   const RowHulls& rows, int num_rows,
                                   PairList* list) {
  const Hull hull = boxes.hulls[column];
  const uint32_t key = boxes.keys[column];
  for (int row = 0; row < num_rows; ++row) {
    if (rows.keys[row] == key && hulls_meet(rows.hulls[row], hull)) {
      list_pair(list, row, static_cast<int>(threadIdx.x));
    }
  }
}

// Word (i, c) of the mask: which of the tile's boxes 64 c ... 64 c + 63 its box
// i suppresses. Only c >= i / 64 is written, and only later boxes are marked.
__global__ void __launch_bounds__(kColumns)
    suppression_mask_kernel(SortedBoxes boxes, Fates fates, int64_t first,
                            int num_in_tile, Word* mask) {
  __shared__ RowHulls rows;
  __shared__ PairList list;
  __shared__ Word words[kRows * kWordsPerTile];
  const int thread = static_cast<int>(threadIdx.x);
  const int first_row = static_cast<int>(blockIdx.y) * kRows;
  const int first_column = static_cast<int>(blockIdx.x) * kColumns;
  if (first_column + kColumns <= first_row ||
      *fates.num_kept >= fates.max_kept) {
    return;
  }
  const int rows_left = num_in_tile - first_row;
  const int num_rows = rows_left < kRows ? rows_left : kRows;
  if (thread < num_rows) {
    const int64_t row = first + first_row + thread;
    rows.hulls[thread] = fates.removed[row] ? empty_hull() : boxes.hulls[row];
    rows.keys[thread] = boxes.keys[row];
  }
  if (thread < kRows * kWordsPerTile) words[thread] = 0;
  if (thread == 0) list.count = 0;
  __syncthreads();
  const int column = first_column + thread;
  if (column < num_in_tile && !fates.removed[first + column]) {
    list_column(boxes, first + column, rows, num_rows, &list);
  }
  __syncthreads();
  for (int i = thread; i < list.count; i += kColumns) {
    const int row = list.pairs[i] / kColumns;
    const int other = list.pairs[i] % kColumns;
    if (first_row + row < first_column + other &&
        suppresses(boxes, first + first_row + row,
                   first + first_column + other)) {
      atomicOr(&words[row * kWordsPerTile + other / kBits],
               Word(1) << (other % kBits));
    }
  }
  __syncthreads();
  const int row = thread / kWordsPerTile;
  const int word = first_column / kBits + thread % kWordsPerTile;
  if (row < num_rows && word * kBits < num_in_tile) {
    mask[static_cast<int64_t>(first_row + row) * kTileWords + word] =
        words[thread];
  }
}

// One block goes down the tile, 64 boxes at a time: one thread settles who
// survives among the 64, then all threads let the survivors suppress the later
// words.
__global__ void __launch_bounds__(kReduceThreads)
    greedy_reduce_kernel(Fates fates, int64_t first, int num_in_tile,
                         const Word* mask) {
  __shared__ Word removed[kTileWords];
  __shared__ Word diagonal[kBits];
  __shared__ Word survivors;
  __shared__ int num_survivors;
  const int thread = static_cast<int>(threadIdx.x);
  const int num_words = (num_in_tile + kBits - 1) / kBits;
  if (thread == 0) num_survivors = 0;
  if (thread < kTileWords) removed[thread] = 0;
  __syncthreads();
  if (*fates.num_kept >= fates.max_kept) {
    if (thread == 0) *fates.num_survivors = 0;
    return;
  }
  for (int i = thread; i < num_in_tile; i += kReduceThreads) {
    if (fates.removed[first + i]) {
      atomicOr(&removed[i / kBits], Word(1) << (i % kBits));
    }
  }
  const int part = thread / kTileWords;  // of the 64 rows, for this thread
  const int lane = thread % kTileWords;
  for (int block = 0; block < num_words; ++block) {
    const int left = num_in_tile - block * kBits;
    const int count = left < kBits ? left : kBits;
    const Word* rows = mask + static_cast<int64_t>(block) * kBits * kTileWords;
    if (thread < count) diagonal[thread] = rows[thread * kTileWords + block];
    __syncthreads();
    if (thread == 0) {
      Word gone = removed[block];
      Word alive = 0;
      for (int k = 0; k < count; ++k) {
        if (!((gone >> k) & 1)) {
          alive |= Word(1) << k;
          gone |= diagonal[k];
        }
      }
      survivors = alive;
    }
    __syncthreads();
    const Word alive = survivors;
    if (thread < count && ((alive >> thread) & 1)) {
      const Word before = alive & ((Word(1) << thread) - 1);
      fates.survivors[num_survivors + __popcll(before)] =
          block * kBits + thread;
      fates.kept[first + block * kBits + thread] = true;
    }
    const int word = block + 1 + lane;
    if (word < num_words) {
      Word gone = 0;
      for (int k = part; k < count; k += kReduceParts) {
        if ((alive >> k) & 1) gone |= rows[k * kTileWords + word];
      }
      if (gone != 0) atomicOr(&removed[word], gone);
    }
    __syncthreads();  // all have read num_survivors, and written removed
    if (thread == 0) num_survivors += __popcll(alive);
  }
  __syncthreads();
  if (thread == 0) {
    *fates.num_survivors = num_survivors;
    *fates.num_kept += num_survivors;
  }
}

// The tile's survivors suppress boxes from `later` on.
__global__ void __launch_bounds__(kColumns)
    suppress_later_kernel(SortedBoxes boxes, Fates fates, int64_t first,
                          int64_t later) {
  __shared__ RowHulls rows;
  __shared__ int64_t row_boxes[kRows];
  __shared__ PairList list;
  const int thread = static_cast<int>(threadIdx.x);
  const int first_row = static_cast<int>(blockIdx.y) * kRows;
  const int rows_left = *fates.num_survivors - first_row;
  if (rows_left <= 0 || *fates.num_kept >= fates.max_kept) {
    return;
  }
  const int num_rows = rows_left < kRows ? rows_left : kRows;
  if (thread < num_rows) {
    const int64_t row = first + fates.survivors[first_row + thread];
    row_boxes[thread] = row;
    rows.hulls[thread] = boxes.hulls[row];
    rows.keys[thread] = boxes.keys[row];
  }
  if (thread == 0) list.count = 0;
  __syncthreads();
  const int64_t first_column =
      later + static_cast<int64_t>(blockIdx.x) * kColumns;
  const int64_t column = first_column + thread;
  if (column < boxes.num_boxes && !fates.removed[column]) {
    list_column(boxes, column, rows, num_rows, &list);
  }
  __syncthreads();
  for (int i = thread; i < list.count; i += kColumns) {
    const int64_t better = row_boxes[list.pairs[i] / kColumns];
    const int64_t worse = first_column + list.pairs[i] % kColumns;
    if (suppresses(boxes, better, worse)) fates.removed[worse] = 1;
  }
}

}  // namespace

int64_t nms_workspace_bytes(int64_t num_boxes) {
  return Workspace(nullptr, num_boxes).bytes;
}

// Settles the boxes tile by tile, without waiting for the device.
template <typename Scalar>
void nms_rotated(Cuda place, const NmsInput<Scalar>& input, int64_t max_kept,
                 void* memory, bool* kept) {
  const int64_t num_boxes = input.num_boxes;
  if (num_boxes == 0) return;
  const Workspace workspace(memory, num_boxes);
  const SortedBoxes boxes = {
      workspace.rects, workspace.hulls, workspace.keys,     input.labels,
      input.images,    num_boxes,       input.iou_threshold};
  const Fates fates = {workspace.removed,   kept,
                       workspace.survivors, workspace.num_survivors,
                       workspace.num_kept,  max_kept};
  launch(place, &prepare_boxes_kernel<Scalar>, num_blocks(num_boxes, kColumns),
         kColumns, input, workspace, kept);
  for (int64_t first = 0; first < num_boxes; first += kTile) {
    const int num_in_tile =
        static_cast<int>(std::min<int64_t>(kTile, num_boxes - first));
    const unsigned num_row_blocks = num_blocks(num_in_tile, kRows);
    launch(place, &suppression_mask_kernel,
           dim3(num_blocks(num_in_tile, kColumns), num_row_blocks), kColumns,
           boxes, fates, first, num_in_tile, workspace.mask);
    launch(place, &greedy_reduce_kernel, 1, kReduceThreads, fates, first,
           num_in_tile, workspace.mask);
    const int64_t later = first + kTile;
    if (later < num_boxes) {
      launch(place, &suppress_later_kernel,
             dim3(num_blocks(num_boxes - later, kColumns), num_row_blocks),
             kColumns, boxes, fates, first, later);
    }
  }
}

template void nms_rotated(Cuda, const NmsInput<float>&, int64_t, void*, bool*);
template void nms_rotated(Cuda, const NmsInput<double>&, int64_t, void*, bool*);

}  // namespace tcm_d2
