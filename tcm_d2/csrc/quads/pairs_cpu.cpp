// Pairs of overlapping quadrilaterals inside groups, and greedy suppression
// inside groups, on the CPU. A group is an image, or a class of an image.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <vector>

#include "../geometry/quad.h"
#include "kernels.h"

namespace tcm_d2 {
namespace {

// First quads worked on at a time; fixed, so that the order of the pairs does
// not depend on the number of threads.
constexpr int64_t kChunk = 1024;
// Work a thread should get at least, so that starting it pays.
constexpr int64_t kMinChunksPerThread = 8;
constexpr int64_t kMinGroupsPerThread = 64;
// Room left to rounding when a pair is dropped because its upright bounds
// cannot reach the IoU.
constexpr double kBoundSlack = 1e-9;

bool is_finite(const Quad& quad) {
  // Sums and products of the corners: one that is not finite spoils them.
  return std::isfinite(quad.area) && std::isfinite(quad.left) &&
         std::isfinite(quad.right) && std::isfinite(quad.top) &&
         std::isfinite(quad.bottom);
}

// The finite quads of a set, those of one group side by side, by left edge:
// neighbours in a group are neighbours in memory.
struct Group {
  int64_t key, begin, end;
  double widest;
};

struct Groups {
  std::vector<Quad> quads;
  std::vector<int64_t> index;  // of each quad in the set
  std::vector<Group> groups;

  Groups(const double* data, const int64_t* keys, int64_t num) {
    struct Key {
      int64_t group;
      double left;
      int64_t index;
    };
    std::vector<Key> order;
    order.reserve(num);
    for (int64_t i = 0; i < num; ++i) {
      const Quad quad = make_quad(data + 8 * i);
      if (is_finite(quad)) order.push_back({keys[i], quad.left, i});
    }
    std::sort(order.begin(), order.end(), [](const Key& a, const Key& b) {
      return std::tie(a.group, a.left, a.index) <
             std::tie(b.group, b.left, b.index);
    });
    quads.reserve(order.size());
    index.reserve(order.size());
    for (const Key& key : order) {
      const int64_t at = static_cast<int64_t>(quads.size());
      quads.push_back(make_quad(data + 8 * key.index));
      index.push_back(key.index);
      if (groups.empty() || groups.back().key != key.group) {
        groups.push_back({key.group, at, at, 0.0});
      }
      Group& group = groups.back();
      group.end = at + 1;
      group.widest =
          std::max(group.widest, quads.back().right - quads.back().left);
    }
  }

  const Group* find(int64_t key) const {
    const auto at = std::lower_bound(
        groups.begin(), groups.end(), key,
        [](const Group& group, int64_t wanted) { return group.key < wanted; });
    return at != groups.end() && at->key == key ? &*at : nullptr;
  }

  // First quad of the group that can reach as far right as left.
  int64_t first_reaching(const Group& group, double left) const {
    // Rounding of the widths must not lose a pair that touches.
    const double slack = 1e-12 * (std::fabs(left) + group.widest);
    const double from = left - group.widest - slack;
    return std::lower_bound(quads.begin() + group.begin,
                            quads.begin() + group.end, from,
                            [](const Quad& quad, double wanted) {
                              return quad.left < wanted;
                            }) -
           quads.begin();
  }
};

// IoU > t  <=>  common > t (area1 + area2) / (1 + t), and the common area is at
// most that of the bounds.
bool bounds_allow(const Quad& one, const Quad& two, double factor) {
  const double width =
      std::min(one.right, two.right) - std::max(one.left, two.left);
  const double height =
      std::min(one.bottom, two.bottom) - std::max(one.top, two.top);
  return width > 0 && height > 0 &&
         width * height >= factor * (std::fabs(one.area) + std::fabs(two.area));
}

double bound_factor(double min_iou) {
  return min_iou / (1 + min_iou) * (1 - kBoundSlack);
}

// Lets the quads of one group suppress each other, best rank first. Quads come
// in rank order: their index in the set is their rank.
void suppress_in_group(const Groups& groups, const Group& group,
                       double iou_threshold, std::vector<uint8_t>& suppressed) {
  std::vector<int64_t> by_rank(group.end - group.begin);
  std::iota(by_rank.begin(), by_rank.end(), group.begin);
  std::sort(by_rank.begin(), by_rank.end(), [&](int64_t a, int64_t b) {
    return groups.index[a] < groups.index[b];
  });
  const double factor = bound_factor(iou_threshold);
  for (const int64_t better : by_rank) {
    const int64_t rank = groups.index[better];
    if (suppressed[rank]) continue;
    const Quad& quad = groups.quads[better];
    for (int64_t at = groups.first_reaching(group, quad.left);
         at < group.end && groups.quads[at].left < quad.right; ++at) {
      const int64_t other_rank = groups.index[at];
      const Quad& other = groups.quads[at];
      if (other_rank > rank && bounds_allow(quad, other, factor) &&
          !suppressed[other_rank] && quad_iou(quad, other) > iou_threshold) {
        suppressed[other_rank] = 1;
      }
    }
  }
}

}  // namespace

std::vector<std::vector<QuadPair>> overlapping_quads(
    Cpu, const double* quads1, const int64_t* groups1, int64_t num1,
    const double* quads2, const int64_t* groups2, int64_t num2,
    double min_iou) {
  const Groups groups(quads2, groups2, num2);
  const double factor = bound_factor(min_iou);
  std::vector<std::vector<QuadPair>> found((num1 + kChunk - 1) / kChunk);
  at::parallel_for(
      0, static_cast<int64_t>(found.size()), kMinChunksPerThread,
      [&](int64_t begin, int64_t end) {
        for (int64_t i = begin * kChunk; i < std::min(num1, end * kChunk);
             ++i) {
          const Quad quad = make_quad(quads1 + 8 * i);
          const Group* group =
              is_finite(quad) ? groups.find(groups1[i]) : nullptr;
          if (group == nullptr) continue;
          std::vector<QuadPair>& pairs = found[i / kChunk];
          const size_t start = pairs.size();
          for (int64_t at = groups.first_reaching(*group, quad.left);
               at < group->end && groups.quads[at].left < quad.right; ++at) {
            const Quad& other = groups.quads[at];
            if (!bounds_allow(quad, other, factor)) continue;
            const double iou = quad_iou(quad, other);
            if (iou > min_iou) pairs.push_back({i, groups.index[at], iou});
          }
          std::sort(pairs.begin() + start, pairs.end(),
                    [](const QuadPair& a, const QuadPair& b) {
                      return a.second < b.second;
                    });
        }
      });
  return found;
}

std::vector<uint8_t> suppressed_quads(Cpu, const double* quads,
                                      const int64_t* group_of, int64_t num,
                                      double iou_threshold) {
  const Groups groups(quads, group_of, num);
  std::vector<uint8_t> suppressed(num, 0);
  at::parallel_for(0, static_cast<int64_t>(groups.groups.size()),
                   kMinGroupsPerThread, [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       suppress_in_group(groups, groups.groups[i],
                                         iou_threshold, suppressed);
                     }
                   });
  return suppressed;
}

}  // namespace tcm_d2
