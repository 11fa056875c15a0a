// The kernels of csrc/cuda behind plain functions, run by the emulation.

#include "cuda_emulation.h"

// After it: what these include is to be compiled for the CPU.
#include "cuda/iou_kernels.h"
#include "cuda/launch.h"
#include "cuda/nms_kernels.h"
#include "cuda/points_kernels.h"
#include "cuda/quads_kernels.h"

using namespace tcm_d2;

extern "C" {

void pairwise_iou(const float* boxes1, int64_t num1, const float* boxes2,
                  int64_t num2, bool iof, unsigned max_grid_y, float* out) {
  const Index3 grid = {num_blocks(num2, kColumns),
                       std::min(num_blocks(num1, kRows), max_grid_y), 1};
  emulation::launch(grid, kColumns, [&] {
    box_iou_rotated_kernel<float>(boxes1, boxes2, num1, num2, iof, out);
  });
}

void paired_iou(const double* boxes1, const double* boxes2, int64_t num_pairs,
                unsigned max_grid_x, double* out) {
  const Index3 grid = {std::min(num_blocks(num_pairs, kColumns), max_grid_x), 1,
                       1};
  emulation::launch(grid, kColumns, [&] {
    paired_iou_rotated_kernel<double>(boxes1, boxes2, num_pairs, out);
  });
}

void points_in_boxes(const float* points, int64_t num_points,
                     const float* boxes, int64_t num_boxes, unsigned max_grid_y,
                     bool* inside) {
  const Index3 grid = {num_blocks(num_boxes, kColumns),
                       std::min(num_blocks(num_points, kRows), max_grid_y), 1};
  emulation::launch(grid, kColumns, [&] {
    points_in_rotated_boxes_kernel<float>(points, boxes, num_points, num_boxes,
                                          inside);
  });
}

void pairwise_quad_iou(const float* quads1, int64_t num1, const float* quads2,
                       int64_t num2, unsigned max_grid_y, float* out) {
  const Index3 grid = {num_blocks(num2, kColumns),
                       std::min(num_blocks(num1, kRows), max_grid_y), 1};
  emulation::launch(grid, kColumns, [&] {
    quad_iou_kernel<float>(quads1, quads2, num1, num2, out);
  });
}

// As keep_greedily in nms_cuda.cu; boxes best score first. Returns how many
// boxes the walk counted.
int64_t nms(const float* boxes, const int64_t* labels, const int64_t* images,
            int64_t num_boxes, double iou_threshold, int64_t max_kept,
            bool* kept) {
  std::vector<Rect<double>> rects(num_boxes);
  std::vector<Hull> hulls(num_boxes);
  std::vector<uint32_t> keys(num_boxes);
  std::vector<uint8_t> removed(num_boxes, 0);
  std::vector<int32_t> survivors(kTile, -1);
  // Rubbish where nothing is written.
  std::vector<Word> mask(static_cast<size_t>(kTile) * kTileWords, ~Word(0));
  int32_t num_survivors = 0;
  int64_t num_kept = 0;
  const SortedBoxes sorted = {rects.data(), hulls.data(), keys.data(), labels,
                              images,       num_boxes,    iou_threshold};
  const Fates fates = {removed.data(), kept,      survivors.data(),
                       &num_survivors, &num_kept, max_kept};
  emulation::launch({num_blocks(num_boxes, kColumns), 1, 1}, kColumns, [&] {
    prepare_boxes_kernel<float>(boxes, labels, images, num_boxes, rects.data(),
                                hulls.data(), keys.data());
  });
  for (int64_t first = 0; first < num_boxes; first += kTile) {
    const int num_in_tile =
        static_cast<int>(std::min<int64_t>(kTile, num_boxes - first));
    const unsigned num_row_blocks = num_blocks(num_in_tile, kRows);
    emulation::launch({num_blocks(num_in_tile, kColumns), num_row_blocks, 1},
                      kColumns, [&] {
                        suppression_mask_kernel(sorted, fates, first,
                                                num_in_tile, mask.data());
                      });
    emulation::launch({1, 1, 1}, kReduceThreads, [&] {
      greedy_reduce_kernel(fates, first, num_in_tile, mask.data());
    });
    const int64_t later = first + kTile;
    if (later < num_boxes) {
      emulation::launch(
          {num_blocks(num_boxes - later, kColumns), num_row_blocks, 1},
          kColumns,
          [&] { suppress_later_kernel(sorted, fates, first, later); });
    }
  }
  return num_kept;
}

}  // extern "C"
