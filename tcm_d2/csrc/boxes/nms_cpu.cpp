// Greedy non-maximum suppression of rotated boxes on the CPU.
//
// The sorted boxes are settled a block at a time. First all threads compare the
// block with the boxes kept so far; then what is left of the block among
// itself; then one thread goes down the block. Where most boxes survive, the
// two comparisons are one. A grid finds the few boxes that can meet. Each
// decision depends on the boxes alone, so the result doesn't depend on the
// number of threads or the size of the blocks.

#include <ATen/Parallel.h>

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "box_grid.h"
#include "kernels.h"
#include "prepare.h"
#include "rect_kernels.h"

namespace tcm_d2 {
namespace {

// Boxes settled together. Larger blocks need fewer starts of threads, but
// compare more boxes of a crowd that others of their block suppress anyway, and
// may hold a list of half the square of this.
constexpr int32_t kFirstStep = 256;
constexpr int32_t kLargestStep = 4096;
// Suppressing pairs in a block, per box, up to which the next block is larger.
constexpr int64_t kFewPairs = 4;
// Boxes of a block that a thread takes at a time.
constexpr int64_t kChunk = 128;

using BoxList = std::vector<int32_t>;

// One of the sorted boxes suppresses a later one.
struct Suppression {
  int32_t better, worse;
};

uint32_t mixed(uint64_t value) {
  value = (value ^ (value >> 31)) * 0xD6E8FEB86659FD93u;
  return static_cast<uint32_t>(value >> 32);
}

// Boxes in the order of their scores. Labels and images are null where all
// boxes share one.
struct Candidates {
  const int64_t* labels;
  const int64_t* images;
  double iou_threshold;
  std::vector<Rect<double>> rects;
  BoxGrid grid;

  template <typename Scalar>
  explicit Candidates(const NmsInput<Scalar>& input)
      : labels(input.labels),
        images(input.images),
        iou_threshold(input.iou_threshold),
        rects(input.num_boxes),
        grid(input.num_boxes, input.iou_threshold) {
    for_each_rect(input.boxes, input.num_boxes,
                  [&](int64_t i, const Rect<double>& rect) {
                    rects[i] = rect;
                    grid.set(i, rect, group(i));
                  });
    grid.build();
  }

  uint32_t group(int64_t i) const {
    return (labels ? mixed(static_cast<uint64_t>(labels[i])) : 0) +
           (images ? 31 * mixed(static_cast<uint64_t>(images[i])) : 0);
  }

  bool are_rivals(int64_t i, int64_t k) const {
    return (labels == nullptr || labels[i] == labels[k]) &&
           (images == nullptr || images[i] == images[k]);
  }
};

// Computes the IoU of pairs, a block at a time, and calls found(better, worse)
// for those above the threshold, in the order of adding.
template <typename Found>
class PairTester {
 public:
  PairTester(const Candidates& candidates, Found found)
      : candidates_(candidates), found_(found) {}

  void add(int32_t better, int32_t worse) {
    if (!candidates_.are_rivals(better, worse)) return;
    first_.set(count_, candidates_.rects[better]);
    second_.set(count_, candidates_.rects[worse]);
    pairs_[count_] = {better, worse};
    if (++count_ == kBlock) flush();
  }

  void flush() {
    double iou[kBlock];
    kernels_.overlaps(first_, second_, count_, false, iou);
    for (int i = 0; i < count_; ++i) {
      if (iou[i] > candidates_.iou_threshold) {
        found_(pairs_[i].better, pairs_[i].worse);
      }
    }
    count_ = 0;
  }

 private:
  const RectKernels& kernels_ = rect_kernels();
  const Candidates& candidates_;
  Found found_;
  RectBlock first_, second_;
  Suppression pairs_[kBlock];
  int count_ = 0;
};

template <typename Found>
void find_rivals(const Candidates& candidates, const BoxList& boxes,
                 int64_t begin, int64_t end, int32_t first, Found found) {
  PairTester<Found> tester(candidates, found);
  for (int64_t b = begin; b < end; ++b) {
    candidates.grid.for_each_rival(boxes[b], first,
                                   [&](int32_t k) { tester.add(k, boxes[b]); });
  }
  tester.flush();
}

// Counts what is kept, up to a limit for each image.
class Quota {
 public:
  Quota(const int64_t* images, int64_t num_boxes, int64_t limit)
      : images_(images), limit_(limit) {
    num_open_ = 1;
    if (images_ != nullptr) {
      for (int64_t i = 0; i < num_boxes; ++i) counts_[images_[i]] = 0;
      num_open_ = counts_.size();
    }
    if (limit_ == 0) num_open_ = 0;
  }

  bool is_full() const { return num_open_ == 0; }

  // Whether one more box may be kept; if so, counts it.
  bool take(int64_t i) {
    int64_t& count = images_ == nullptr ? count_ : counts_[images_[i]];
    if (count == limit_) return false;
    if (++count == limit_) --num_open_;
    return true;
  }

 private:
  const int64_t* images_;
  int64_t limit_;
  int64_t count_ = 0;
  size_t num_open_;  // images that aren't full
  std::unordered_map<int64_t, int64_t> counts_;
};

// Flags those of the boxes that a kept one suppresses.
void compare_with_kept(const Candidates& candidates, const BoxList& boxes,
                       std::vector<uint8_t>* suppressed) {
  at::parallel_for(
      0, static_cast<int64_t>(boxes.size()), kChunk,
      [&](int64_t begin, int64_t end) {
        find_rivals(candidates, boxes, begin, end, 0,
                    [&](int32_t, int32_t worse) { (*suppressed)[worse] = 1; });
      });
}

// Suppressions of the boxes by those that the grid holds from first on, ordered
// by the suppressed box.
std::vector<std::vector<Suppression>> find_suppressions(
    const Candidates& candidates, const BoxList& boxes, int32_t first) {
  const int64_t num_boxes = static_cast<int64_t>(boxes.size());
  const int64_t num_chunks = (num_boxes + kChunk - 1) / kChunk;
  std::vector<std::vector<Suppression>> found(num_chunks);
  at::parallel_for(0, num_chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      find_rivals(candidates, boxes, chunk * kChunk,
                  std::min(num_boxes, (chunk + 1) * kChunk), first,
                  [&](int32_t better, int32_t worse) {
                    found[chunk].push_back({better, worse});
                  });
    }
  });
  return found;
}

// Ranks of the boxes that are kept.
BoxList keep_greedily(Candidates* candidates, Quota* quota) {
  const auto& rects = candidates->rects;
  BoxGrid& grid = candidates->grid;
  const int32_t num_boxes = static_cast<int32_t>(rects.size());
  std::vector<uint8_t> suppressed(num_boxes, 0);
  BoxList kept, block;
  int32_t step = kFirstStep;
  bool most_survive = true;
  for (int32_t first = 0; first < num_boxes && !quota->is_full();) {
    const int32_t last = first + std::min(step, num_boxes - first);
    block.clear();
    for (int32_t i = first; i < last; ++i) {
      if (rects[i].area > 0) block.push_back(i);
    }
    if (!most_survive) {
      compare_with_kept(*candidates, block, &suppressed);
      block.erase(std::remove_if(block.begin(), block.end(),
                                 [&](int32_t i) { return suppressed[i]; }),
                  block.end());
    }
    for (const int32_t i : block) grid.push(i);
    const auto found =
        find_suppressions(*candidates, block, most_survive ? 0 : first);
    int64_t num_found = 0;
    for (const auto& chunk : found) {
      num_found += static_cast<int64_t>(chunk.size());
      // All that might suppress the better box has come before.
      for (const Suppression& pair : chunk) {
        if (!suppressed[pair.better]) suppressed[pair.worse] = 1;
      }
    }
    for (size_t b = block.size(); b-- > 0;) {  // the last stored first
      if (suppressed[block[b]]) grid.remove(block[b]);
    }
    int32_t num_suppressed = 0;
    for (int32_t i = first; i < last; ++i) {
      num_suppressed += suppressed[i];
      if (!suppressed[i] && quota->take(i)) kept.push_back(i);
    }
    most_survive = 2 * num_suppressed < last - first;
    step = num_found <= kFewPairs * (last - first)
               ? std::min(2 * step, kLargestStep)
               : std::max(step / 2, kFirstStep);
    first = last;
  }
  return kept;
}

}  // namespace

template <typename Scalar>
std::vector<int32_t> nms_rotated(Cpu, const NmsInput<Scalar>& input,
                                 int64_t max_kept) {
  Candidates candidates(input);
  const bool is_limited = max_kept < input.num_boxes;
  Quota quota(is_limited ? input.images : nullptr, input.num_boxes,
              is_limited ? max_kept : input.num_boxes);
  return keep_greedily(&candidates, &quota);
}

template std::vector<int32_t> nms_rotated(Cpu, const NmsInput<float>&, int64_t);
template std::vector<int32_t> nms_rotated(Cpu, const NmsInput<double>&,
                                          int64_t);

}  // namespace tcm_d2
