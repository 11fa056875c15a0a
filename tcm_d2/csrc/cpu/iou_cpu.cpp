// Pairwise and paired IoU of rotated boxes on the CPU.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../checks.h"
#include "prepare.h"
#include "rect_kernels.h"

namespace tcm_d2 {
namespace {

// What a thread should get at least, so that starting it pays: pairs to compute
// and pairs whose hulls are compared, of which most need nothing more.
constexpr int64_t kMinPairsPerThread = 1024;
constexpr int64_t kMinHullPairsPerThread = 16384;
// Hulls compared in one go: their bounds and flags stay in the L1 cache.
constexpr int64_t kTile = 1024;

// One side of the pairwise IoU.
struct Side {
  std::vector<Rect<double>> rects;
  HullArrays hulls;

  explicit Side(const at::Tensor& boxes) : rects(boxes.size(0)) {
    for (auto* bound :
         {&hulls.x_low, &hulls.x_high, &hulls.y_low, &hulls.y_high}) {
      bound->resize(boxes.size(0));
    }
    for_each_rect(boxes, [&](int64_t i, const Rect<double>& rect) {
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

at::Tensor box_iou_rotated_cpu(const at::Tensor& boxes1,
                               const at::Tensor& boxes2, bool iof) {
  check_pair(boxes1, boxes2);
  at::Tensor overlaps =
      at::zeros({boxes1.size(0), boxes2.size(0)}, boxes1.options());
  if (overlaps.numel() == 0) {
    return overlaps;
  }
  const Side rows(boxes1.contiguous());
  const Side columns(boxes2.contiguous());
  AT_DISPATCH_FLOATING_TYPES(boxes1.scalar_type(), "box_iou_rotated_cpu", [&] {
    write_overlaps(rows, columns, iof, overlaps.mutable_data_ptr<scalar_t>());
  });
  return overlaps;
}

// Calls visit(first, count, rects1, rects2) for each block of aligned pairs, on
// any thread.
template <typename Scalar, typename Visit>
void for_each_pair_block(const at::Tensor& boxes1, const at::Tensor& boxes2,
                         const Visit& visit) {
  const Scalar* data1 = boxes1.const_data_ptr<Scalar>();
  const Scalar* data2 = boxes2.const_data_ptr<Scalar>();
  const RectKernels& kernels = rect_kernels();
  at::parallel_for(
      0, boxes1.size(0), kMinPairsPerThread, [&](int64_t begin, int64_t end) {
        BoxBlock boxes;
        RectBlock rects1, rects2;
        for (int64_t first = begin; first < end; first += kBlock) {
          const int count =
              static_cast<int>(std::min<int64_t>(kBlock, end - first));
          load_boxes(data1 + 5 * first, count, &boxes);
          kernels.make_rects(boxes, count, &rects1);
          load_boxes(data2 + 5 * first, count, &boxes);
          kernels.make_rects(boxes, count, &rects2);
          visit(first, count, rects1, rects2);
        }
      });
}

at::Tensor paired_iou_rotated_cpu(const at::Tensor& boxes1,
                                  const at::Tensor& boxes2) {
  check_aligned(boxes1, boxes2);
  const at::Tensor first_boxes = boxes1.contiguous();
  const at::Tensor second_boxes = boxes2.contiguous();
  at::Tensor iou = at::empty({boxes1.size(0)}, boxes1.options());
  AT_DISPATCH_FLOATING_TYPES(
      boxes1.scalar_type(), "paired_iou_rotated_cpu", [&] {
        scalar_t* out = iou.mutable_data_ptr<scalar_t>();
        for_each_pair_block<scalar_t>(
            first_boxes, second_boxes,
            [&](int64_t first, int count, const RectBlock& rects1,
                const RectBlock& rects2) {
              double overlaps[kBlock];
              rect_kernels().overlaps(rects1, rects2, count, false, overlaps);
              for (int i = 0; i < count; ++i) {
                out[first + i] = static_cast<scalar_t>(overlaps[i]);
              }
            });
      });
  return iou;
}

std::tuple<at::Tensor, at::Tensor> paired_iou_rotated_backward_cpu(
    const at::Tensor& grad_iou, const at::Tensor& boxes1,
    const at::Tensor& boxes2) {
  check_aligned(boxes1, boxes2);
  check_grad(grad_iou, boxes1);
  const at::Tensor first_boxes = boxes1.contiguous();
  const at::Tensor second_boxes = boxes2.contiguous();
  const at::Tensor scales = grad_iou.contiguous();
  at::Tensor grad1 = at::empty({boxes1.size(0), 5}, boxes1.options());
  at::Tensor grad2 = at::empty({boxes1.size(0), 5}, boxes1.options());
  AT_DISPATCH_FLOATING_TYPES(
      boxes1.scalar_type(), "paired_iou_rotated_backward_cpu", [&] {
        const scalar_t* scale = scales.const_data_ptr<scalar_t>();
        scalar_t* out1 = grad1.mutable_data_ptr<scalar_t>();
        scalar_t* out2 = grad2.mutable_data_ptr<scalar_t>();
        for_each_pair_block<scalar_t>(
            first_boxes, second_boxes,
            [&](int64_t first, int count, const RectBlock& rects1,
                const RectBlock& rects2) {
              double wide_scale[kBlock] = {};
              std::copy_n(scale + first, count, wide_scale);
              GradBlock grads1, grads2;
              rect_kernels().overlap_grads(rects1, rects2, count, wide_scale,
                                           &grads1, &grads2);
              for (int i = 0; i < count; ++i) {
                store_grad(grads1.get(i), out1 + 5 * (first + i));
                store_grad(grads2.get(i), out2 + 5 * (first + i));
              }
            });
      });
  return {grad1, grad2};
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) {
  m.impl("box_iou_rotated", &box_iou_rotated_cpu);
  m.impl("paired_iou_rotated", &paired_iou_rotated_cpu);
  m.impl("paired_iou_rotated_backward", &paired_iou_rotated_backward_cpu);
}

}  // namespace tcm_d2
