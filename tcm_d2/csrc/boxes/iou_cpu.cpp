// Pairwise and paired IoU of rotated boxes on the CPU.

#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "prepare.h"
#include "rect_kernels.h"

namespace tcm_d2 {
namespace {

// What a thread should get at least, so that starting it pays: pairs to compute
// and pairs whose hulls are compared, of which most need nothing more.
constexpr int64_t kMinPairsPerThread = 1024;
constexpr int64_t kMinHullPairsPerThread = 16384;
constexpr int64_t kMinZerosPerThread = 32768;
// Hulls compared in one go: their bounds and flags stay in the L1 cache.
constexpr int64_t kTile = 1024;

// One side of the pairwise IoU.
struct Side {
  std::vector<Rect<double>> rects;
  HullArrays hulls;

  template <typename Scalar>
  Side(const Scalar* boxes, int64_t num) : rects(num) {
    for (auto* bound :
         {&hulls.x_low, &hulls.x_high, &hulls.y_low, &hulls.y_high}) {
      bound->resize(num);
    }
    for_each_rect(boxes, num, [&](int64_t i, const Rect<double>& rect) {
      rects[i] = rect;
      const Hull bounds = make_hull(rect);
      hulls.x_low[i] = bounds.x_low;
      hulls.x_high[i] = bounds.x_high;
      hulls.y_low[i] = bounds.y_low;
      hulls.y_high[i] = bounds.y_high;
    });
  }

  Hull hull(int64_t i) const {
    return {hulls.x_low[i], hulls.x_high[i], hulls.y_low[i], hulls.y_high[i]};
  }
};

// Collects pairs whose hulls meet and writes their overlaps, a block at a time.
template <typename Scalar>
class PairWriter {
 public:
  PairWriter(const Side& rows, const Side& columns, bool iof, Scalar* out)
      : rows_(rows), columns_(columns), iof_(iof), out_(out) {}

  void add(int64_t row, int64_t column) {
    row_rects_.set(count_, rows_.rects[row]);
    column_rects_.set(count_, columns_.rects[column]);
    index_[count_] = row * static_cast<int64_t>(columns_.rects.size()) + column;
    if (++count_ == kBlock) flush();
  }

  void flush() {
    double overlaps[kBlock];
    kernels_.overlaps(row_rects_, column_rects_, count_, iof_, overlaps);
    for (int i = 0; i < count_; ++i) {
      out_[index_[i]] = static_cast<Scalar>(overlaps[i]);
    }
    count_ = 0;
  }

 private:
  const RectKernels& kernels_ = rect_kernels();
  const Side& rows_;
  const Side& columns_;
  const bool iof_;
  Scalar* const out_;
  RectBlock row_rects_, column_rects_;
  int64_t index_[kBlock];
  int count_ = 0;
};

// Compares hulls along the longer side, a tile of it at a time.
template <typename Scalar>
void write_overlaps(const Side& rows, const Side& columns, bool iof,
                    Scalar* out) {
  const bool along_rows = rows.rects.size() > columns.rects.size();
  const Side& lead = along_rows ? columns : rows;
  const Side& scan = along_rows ? rows : columns;
  const int64_t num_lead = static_cast<int64_t>(lead.rects.size());
  const int64_t num_scan = static_cast<int64_t>(scan.rects.size());
  const RectKernels& kernels = rect_kernels();
  // Both sides are cut, so that there is work for all threads.
  const int64_t lead_step =
      std::max<int64_t>(1, kMinHullPairsPerThread / kTile);
  const int64_t lead_tiles = (num_lead + lead_step - 1) / lead_step;
  const int64_t scan_tiles = (num_scan + kTile - 1) / kTile;
  at::parallel_for(
      0, lead_tiles * scan_tiles, 1, [&](int64_t begin, int64_t end) {
        PairWriter<Scalar> writer(rows, columns, iof, out);
        alignas(64) uint8_t flags[kTile];
        for (int64_t tile = begin; tile < end; ++tile) {
          const int64_t first = tile / lead_tiles * kTile;
          const int64_t count = std::min(kTile, num_scan - first);
          const int64_t lead_first = tile % lead_tiles * lead_step;
          const int64_t lead_last = std::min(lead_first + lead_step, num_lead);
          for (int64_t i = lead_first; i < lead_last; ++i) {
            kernels.hull_flags(lead.hull(i), scan.hulls, first, count, flags);
            for_each_flag(flags, count, [&](int64_t k) {
              along_rows ? writer.add(first + k, i) : writer.add(i, first + k);
            });
          }
        }
        writer.flush();
      });
}

// Calls visit(first, count, rects1, rects2) for each block of aligned pairs, on
// any thread.
template <typename Scalar, typename Visit>
void for_each_pair_block(const Scalar* boxes1, const Scalar* boxes2,
                         int64_t num, const Visit& visit) {
  const RectKernels& kernels = rect_kernels();
  at::parallel_for(0, num, kMinPairsPerThread, [&](int64_t begin, int64_t end) {
    BoxBlock boxes;
    RectBlock rects1, rects2;
    for (int64_t first = begin; first < end; first += kBlock) {
      const int count =
          static_cast<int>(std::min<int64_t>(kBlock, end - first));
      load_boxes(boxes1 + 5 * first, count, &boxes);
      kernels.make_rects(boxes, count, &rects1);
      load_boxes(boxes2 + 5 * first, count, &boxes);
      kernels.make_rects(boxes, count, &rects2);
      visit(first, count, rects1, rects2);
    }
  });
}

}  // namespace

template <typename Scalar>
void box_iou_rotated(Cpu, const Scalar* boxes1, int64_t num1,
                     const Scalar* boxes2, int64_t num2, bool iof,
                     Scalar* overlaps) {
  const int64_t size = num1 * num2;
  at::parallel_for(0, size, kMinZerosPerThread,
                   [&](int64_t begin, int64_t end) {
                     std::fill(overlaps + begin, overlaps + end, Scalar(0));
                   });
  if (size > 0) {
    write_overlaps(Side(boxes1, num1), Side(boxes2, num2), iof, overlaps);
  }
}

template <typename Scalar>
void paired_iou(Cpu, const Scalar* boxes1, const Scalar* boxes2, int64_t num,
                Scalar* iou) {
  for_each_pair_block(boxes1, boxes2, num,
                      [&](int64_t first, int count, const RectBlock& rects1,
                          const RectBlock& rects2) {
                        double overlaps[kBlock];
                        rect_kernels().overlaps(rects1, rects2, count, false,
                                                overlaps);
                        for (int i = 0; i < count; ++i) {
                          iou[first + i] = static_cast<Scalar>(overlaps[i]);
                        }
                      });
}

template <typename Scalar>
void paired_iou_backward(Cpu, const Scalar* grad_iou, const Scalar* boxes1,
                         const Scalar* boxes2, int64_t num, Scalar* grad1,
                         Scalar* grad2) {
  for_each_pair_block(boxes1, boxes2, num,
                      [&](int64_t first, int count, const RectBlock& rects1,
                          const RectBlock& rects2) {
                        double scale[kBlock] = {};
                        std::copy_n(grad_iou + first, count, scale);
                        GradBlock grads1, grads2;
                        rect_kernels().overlap_grads(rects1, rects2, count,
                                                     scale, &grads1, &grads2);
                        for (int i = 0; i < count; ++i) {
                          store_grad(grads1.get(i), grad1 + 5 * (first + i));
                          store_grad(grads2.get(i), grad2 + 5 * (first + i));
                        }
                      });
}

#define TCM_D2_FOR(Scalar)                                                  \
  template void box_iou_rotated(Cpu, const Scalar*, int64_t, const Scalar*, \
                                int64_t, bool, Scalar*);                    \
  template void paired_iou(Cpu, const Scalar*, const Scalar*, int64_t,      \
                           Scalar*);                                        \
  template void paired_iou_backward(Cpu, const Scalar*, const Scalar*,      \
                                    const Scalar*, int64_t, Scalar*, Scalar*)
TCM_D2_FOR(float);
TCM_D2_FOR(double);
#undef TCM_D2_FOR

}  // namespace tcm_d2
