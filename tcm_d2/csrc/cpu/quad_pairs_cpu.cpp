// Pairs of overlapping quadrilaterals inside groups, and greedy suppression
// inside groups, on the CPU. A group is an image, or a class of an image.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "../quad_geometry.h"

namespace tcm_d2 {
namespace {

// First quads worked on at a time; fixed, so that the order of the pairs does
// not depend on the number of threads.
constexpr int64_t kChunk = 1024;
// Room left to rounding when a pair is dropped because its upright bounds
// cannot reach the IoU.
constexpr double kBoundSlack = 1e-9;

void check_grouped(const at::Tensor& quads, const at::Tensor& group,
                   const char* name) {
  TORCH_CHECK(quads.dim() == 3 && quads.size(1) == 4 && quads.size(2) == 2,
              name, ": expected shape (N, 4, 2), got ", quads.sizes());
  TORCH_CHECK(quads.scalar_type() == at::kDouble, name,
              ": expected float64, got ", quads.scalar_type());
  TORCH_CHECK(group.dim() == 1 && group.size(0) == quads.size(0) &&
                  group.scalar_type() == at::kLong,
              "group: expected one int64 for each of the ", quads.size(0), " ",
              name, ", got ", group.scalar_type(), " ", group.sizes());
}

bool is_finite(const Quad& quad) {
  // Sums and products of the corners: one that is not finite spoils them.
  return std::isfinite(quad.area) && std::isfinite(quad.left) &&
         std::isfinite(quad.right) && std::isfinite(quad.top) &&
         std::isfinite(quad.bottom);
}

std::vector<Quad> make_quads(const at::Tensor& quads) {
  const double* data = quads.const_data_ptr<double>();
  std::vector<Quad> result(quads.size(0));
  for (int64_t i = 0; i < quads.size(0); ++i) {
    result[i] = make_quad(data + 8 * i);
  }
  return result;
}

// The finite quads of a set, those of one group side by side, by left edge.
struct Member {
  int64_t group;
  double left;
  int64_t index;
};

struct Group {
  int64_t key, begin, end;
  double widest;
};

struct Groups {
  std::vector<Member> members;
  std::vector<Group> groups;

  Groups(const std::vector<Quad>& quads, const int64_t* keys) {
    members.reserve(quads.size());
    for (size_t i = 0; i < quads.size(); ++i) {
      if (is_finite(quads[i])) {
        members.push_back({keys[i], quads[i].left, static_cast<int64_t>(i)});
      }
    }
    std::sort(members.begin(), members.end(),
              [](const Member& a, const Member& b) {
                return std::tie(a.group, a.left, a.index) <
                       std::tie(b.group, b.left, b.index);
              });
    for (int64_t i = 0; i < static_cast<int64_t>(members.size()); ++i) {
      if (groups.empty() || groups.back().key != members[i].group) {
        groups.push_back({members[i].group, i, i, 0.0});
      }
      const Quad& quad = quads[members[i].index];
      groups.back().end = i + 1;
      groups.back().widest =
          std::max(groups.back().widest, quad.right - quad.left);
    }
  }

  const Group* find(int64_t key) const {
    const auto at = std::lower_bound(
        groups.begin(), groups.end(), key,
        [](const Group& group, int64_t wanted) { return group.key < wanted; });
    return at != groups.end() && at->key == key ? &*at : nullptr;
  }

  // First member of the group that can reach as far right as left.
  int64_t first_reaching(const Group& group, double left) const {
    const double from = left - group.widest;
    // Rounding of the widths must not lose a pair that touches.
    const double slack = 1e-12 * (std::fabs(left) + group.widest);
    return std::lower_bound(members.begin() + group.begin,
                            members.begin() + group.end, from - slack,
                            [](const Member& member, double wanted) {
                              return member.left < wanted;
                            }) -
           members.begin();
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

struct Pair {
  int64_t first, second;
  double iou;
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> overlapping_quads_cpu(
    const at::Tensor& quads1, const at::Tensor& quads2,
    const at::Tensor& group1, const at::Tensor& group2, double min_iou) {
  check_grouped(quads1, group1, "quads1");
  check_grouped(quads2, group2, "quads2");
  const std::vector<Quad> one = make_quads(quads1.contiguous());
  const std::vector<Quad> two = make_quads(quads2.contiguous());
  const at::Tensor keys1 = group1.contiguous();
  const at::Tensor keys2 = group2.contiguous();
  const int64_t* key_of = keys1.const_data_ptr<int64_t>();
  const Groups groups(two, keys2.const_data_ptr<int64_t>());
  const double factor = bound_factor(min_iou);
  const int64_t num = static_cast<int64_t>(one.size());
  std::vector<std::vector<Pair>> found((num + kChunk - 1) / kChunk);
  at::parallel_for(
      0, static_cast<int64_t>(found.size()), 1,
      [&](int64_t begin, int64_t end) {
        for (int64_t chunk = begin; chunk < end; ++chunk) {
          std::vector<Pair>& pairs = found[chunk];
          const int64_t last = std::min(num, (chunk + 1) * kChunk);
          for (int64_t i = chunk * kChunk; i < last; ++i) {
            const Quad& quad = one[i];
            const Group* group =
                is_finite(quad) ? groups.find(key_of[i]) : nullptr;
            if (group == nullptr) continue;
            const size_t start = pairs.size();
            for (int64_t at = groups.first_reaching(*group, quad.left);
                 at < group->end && groups.members[at].left < quad.right;
                 ++at) {
              const int64_t j = groups.members[at].index;
              if (!bounds_allow(quad, two[j], factor)) continue;
              const double iou = quad_iou(quad, two[j]);
              if (iou > min_iou) pairs.push_back({i, j, iou});
            }
            std::sort(pairs.begin() + start, pairs.end(),
                      [](const Pair& a, const Pair& b) {
                        return a.second < b.second;
                      });
          }
        }
      });
  int64_t total = 0;
  for (const auto& pairs : found) total += static_cast<int64_t>(pairs.size());
  at::Tensor first = at::empty({total}, keys1.options());
  at::Tensor second = at::empty({total}, keys1.options());
  at::Tensor iou = at::empty({total}, quads1.options());
  int64_t* first_out = first.mutable_data_ptr<int64_t>();
  int64_t* second_out = second.mutable_data_ptr<int64_t>();
  double* iou_out = iou.mutable_data_ptr<double>();
  for (const auto& pairs : found) {
    for (const Pair& pair : pairs) {
      *first_out++ = pair.first;
      *second_out++ = pair.second;
      *iou_out++ = pair.iou;
    }
  }
  return {first, second, iou};
}

// Lets the members of one group suppress each other, best rank first.
void suppress_in_group(const Groups& groups, const Group& group,
                       const std::vector<Quad>& quads, double iou_threshold,
                       std::vector<uint8_t>& suppressed) {
  // Quads come in rank order: their index is their rank.
  std::vector<int64_t> by_rank(group.end - group.begin);
  for (int64_t i = 0; i < static_cast<int64_t>(by_rank.size()); ++i) {
    by_rank[i] = groups.members[group.begin + i].index;
  }
  std::sort(by_rank.begin(), by_rank.end());
  const double factor = bound_factor(iou_threshold);
  for (const int64_t i : by_rank) {
    if (suppressed[i]) continue;
    const Quad& quad = quads[i];
    for (int64_t at = groups.first_reaching(group, quad.left);
         at < group.end && groups.members[at].left < quad.right; ++at) {
      const int64_t j = groups.members[at].index;
      if (j > i && !suppressed[j] && bounds_allow(quad, quads[j], factor) &&
          quad_iou(quad, quads[j]) > iou_threshold) {
        suppressed[j] = 1;
      }
    }
  }
}

at::Tensor nms_quads_cpu(const at::Tensor& quads, const at::Tensor& scores,
                         const at::Tensor& group, double iou_threshold) {
  check_grouped(quads, group, "quads");
  TORCH_CHECK(scores.dim() == 1 && scores.size(0) == quads.size(0),
              "scores: expected shape (", quads.size(0), ",), got ",
              scores.sizes());
  const at::Tensor order =
      at::argsort(scores, /*stable=*/true, /*dim=*/0, /*descending=*/true);
  const std::vector<Quad> sorted = make_quads(quads.index_select(0, order));
  const at::Tensor keys = group.index_select(0, order);
  const Groups groups(sorted, keys.const_data_ptr<int64_t>());
  std::vector<uint8_t> suppressed(sorted.size(), 0);
  at::parallel_for(0, static_cast<int64_t>(groups.groups.size()), 1,
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       suppress_in_group(groups, groups.groups[i], sorted,
                                         iou_threshold, suppressed);
                     }
                   });
  const int64_t num_kept =
      std::count(suppressed.begin(), suppressed.end(), uint8_t(0));
  at::Tensor keep = at::empty({num_kept}, order.options());
  int64_t* kept = keep.mutable_data_ptr<int64_t>();
  const int64_t* original = order.const_data_ptr<int64_t>();
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (!suppressed[i]) *kept++ = original[i];
  }
  return keep;
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) {
  m.impl("overlapping_quads", &overlapping_quads_cpu);
  m.impl("nms_quads", &nms_quads_cpu);
}

}  // namespace tcm_d2
