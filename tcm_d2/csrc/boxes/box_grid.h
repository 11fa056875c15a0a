// Finds the stored boxes that may suppress a given one.
//
// Boxes are stored in the cells that they touch, in grids whose cells fit their
// size: a box touches at most 2 x 2 cells. Cells live in one hash table, so
// that neither the size of the scene nor the mix of sizes matters. Boxes of
// different groups (class and image) lie in different cells, up to collisions
// of the hash. Needles, whose bounds meet many others, have grids of their own
// for each direction: those that cross have little in common.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../geometry/rotated.h"

namespace tcm_d2 {

class BoxGrid {
 public:
  BoxGrid(int64_t num_boxes, double iou_threshold)
      : outlines_(num_boxes),
        levels_of_(num_boxes),
        iou_threshold_(iou_threshold) {}

  // Sets box i, before build(); different boxes from any thread. The group is a
  // hash: boxes of different groups may still be called rivals.
  void set(int64_t i, const Rect<double>& rect, uint32_t group) {
    // Bounds by area aren't for areas that a float can't hold.
    const bool fits = rect.area > 1e-30 && rect.area < 1e30;
    outlines_[i] = {make_hull(rect),
                    fits ? static_cast<float>(rect.area)
                         : std::numeric_limits<float>::quiet_NaN(),
                    group};
    levels_of_[i] = -1;
    if (rect.area > 0) {
      const int kind = kind_of(rect);
      levels_of_[i] = static_cast<int16_t>(kExponents * kind +
                                           exponent_of(outlines_[i].hull));
    }
  }

  // Makes the (empty) grids for all boxes that are set.
  void build() {
    size_t num_cells = 1024;
    while (num_cells < 2 * outlines_.size()) num_cells *= 2;
    cells_.assign(num_cells, {0, 0});
    choose_levels();
    make_room();
  }

  // Stores box i, which has an area, after all others stored so far.
  void push(int32_t i) {
    levels_[levels_of_[i]].stored.push_back(i);
    const Outline& outline = outlines_[i];
    for_each_cell(i, [&](Cell& cell) {
      nodes_[cell.first + cell.count++] = {outline, i};
    });
  }

  // Takes box i out again; quick for one of those stored last.
  void remove(int32_t i) {
    for_each_cell(i, [&](Cell& cell) {
      Node* const end = &nodes_[cell.first] + cell.count;
      Node* node = end - 1;
      while (node->box != i) --node;
      std::copy(node + 1, end, node);
      --cell.count;
    });
    outlines_[i].hull = kNowhere;
  }

  // Calls visit(k) for the stored boxes k, first <= k < i, whose IoU with box i
  // may be above the threshold.
  template <typename Visit>
  void for_each_rival(int32_t i, int32_t first, const Visit& visit) const {
    for (size_t l = 0; l < levels_.size(); ++l) {
      const Level& level = levels_[l];
      if (level.stored.empty() || level.stored.back() < first ||
          is_too_small(level, outlines_[i]) ||
          all_cross(levels_[levels_of_[i]], level)) {
        continue;
      }
      const Cells cells = cells_of(outlines_[i].hull, level);
      if (level.is_huge() || cells.count() > double(level.stored.size())) {
        visit_all(level, i, first, visit);
      } else {
        visit_cells(l, cells, i, first, visit);
      }
    }
  }

 private:
  // What is needed to rule a pair out.
  struct Outline {
    Hull hull;
    float area;  // NaN: not to be used
    uint32_t group;
  };

  // A box in a cell.
  struct Node {
    Outline outline;
    int32_t box;
  };

  // Where the nodes of a cell are, in the order of storing.
  struct Cell {
    int32_t first, count;
  };

  struct Level {
    double cell;                  // side of a cell, a power of 2
    double inverse;               // 1 / cell
    int kind;                     // of its boxes: 0, or that of needles
    std::vector<int32_t> stored;  // in the order of storing

    Level(double cell, int kind) : cell(cell), inverse(1 / cell), kind(kind) {}

    // No cells: all boxes are looked at.
    bool is_huge() const { return std::isinf(cell); }
  };

  struct Cells {
    int64_t x0, x1, y0, y1;

    double count() const { return double(x1 - x0 + 1) * double(y1 - y0 + 1); }
  };

  // Cells of exponent e have a side of 2^(kMinExponent + e). Boxes of up to
  // 2^kMinExponent share the first one, those above 2^-kMinExponent the last.
  static constexpr int kMinExponent = -64;
  static constexpr int16_t kHuge = 2 * -kMinExponent + 1;
  static constexpr int kExponents = kHuge + 1;
  // Needles are of an aspect of kNeedle and more. Their kind is 1 + kDirections
  // * c + d for the direction d and the class c, a factor kNeedle each.
  static constexpr double kNeedle = 32;
  static constexpr int kDirections = 64;
  static constexpr int kClasses = 3;
  // Every so many boxes tell how full cells would be.
  static constexpr int64_t kSampling = 8;
  // Others in a box's cell up to which it is not crowded.
  static constexpr int64_t kFewOthers = 32;
  static constexpr Hull kNowhere = {1, 0, 1, 0};
  // Bounds are compared with a margin for their own rounding and the IoU's.
  static constexpr double kLess = 1 - 1e-5;

  static int16_t exponent_of(const Hull& hull) {
    const double extent = std::max(double(hull.x_high) - hull.x_low,
                                   double(hull.y_high) - hull.y_low);
    if (!(extent < std::ldexp(1.0, -kMinExponent))) return kHuge;
    int exponent = kMinExponent;
    if (extent > std::ldexp(1.0, kMinExponent)) {
      exponent = std::ilogb(extent) + 1;
    }
    return static_cast<int16_t>(exponent - kMinExponent);
  }

  static int kind_of(const Rect<double>& rect) {
    const bool is_wide = rect.half_w >= rect.half_h;
    const double longer = is_wide ? rect.half_w : rect.half_h;
    double shorter = is_wide ? rect.half_h : rect.half_w;
    if (!(longer >= kNeedle * shorter)) return 0;
    int kind = 1;
    for (int c = 1; c < kClasses; ++c) {
      shorter *= kNeedle;
      if (longer >= kNeedle * shorter) kind += kDirections;
    }
    const double half_turns = (is_wide ? std::atan2(rect.sin, rect.cos)
                                       : std::atan2(rect.cos, -rect.sin)) /
                              3.14159265358979323846;
    const double share = half_turns - std::floor(half_turns);
    return kind +
           std::min(static_cast<int>(share * kDirections), kDirections - 1);
  }

  // Whether needles of two levels cross at angles that leave no IoU above the
  // threshold. They lie in strips, which have h1 h2 / sin(angle) in common, and
  // w1 h1 + w2 h2 is at least twice the root of w1 h1 w2 h2.
  bool all_cross(const Level& a, const Level& b) const {
    if (a.kind == 0 || b.kind == 0) return false;
    const int apart =
        std::abs((a.kind - 1) % kDirections - (b.kind - 1) % kDirections);
    const int steps = std::min(apart, kDirections - apart) - 1;
    if (steps <= 0) return false;
    const double sine =
        std::sin(steps * (3.14159265358979323846 / kDirections));
    const int classes = (a.kind - 1) / kDirections + (b.kind - 1) / kDirections;
    const double aspect = kNeedle * std::pow(kNeedle, 0.5 * classes);
    return (1 + iou_threshold_) <= 2 * kLess * iou_threshold_ * sine * aspect;
  }

  // Index of the cell of a coordinate; far away, of the outermost one.
  static int64_t cell_index(double position, double inverse) {
    constexpr double kLimit = 1e15;
    const double scaled =
        std::min(std::max(position * inverse, -kLimit), kLimit);
    const int64_t index = static_cast<int64_t>(scaled);
    return index - (static_cast<double>(index) > scaled);  // floor
  }

  static Cells cells_of(const Hull& hull, const Level& level) {
    if (level.is_huge()) return {0, 0, 0, 0};
    return {cell_index(hull.x_low, level.inverse),
            cell_index(hull.x_high, level.inverse),
            cell_index(hull.y_low, level.inverse),
            cell_index(hull.y_high, level.inverse)};
  }

  // Calls visit(cell) for the cells that box i touches.
  template <typename Visit>
  void for_each_cell(int32_t i, const Visit& visit) {
    const int16_t l = levels_of_[i];
    if (levels_[l].is_huge()) return;
    const Outline& outline = outlines_[i];
    const Cells cells = cells_of(outline.hull, levels_[l]);
    for (int64_t y = cells.y0; y <= cells.y1; ++y) {
      for (int64_t x = cells.x0; x <= cells.x1; ++x) {
        visit(cells_[slot(l, x, y, outline.group)]);
      }
    }
  }

  // Makes the levels that there are boxes for. Those of a level join the next
  // one where its larger cells hold few boxes all the same: fewer levels, and
  // fewer cells of each, are quicker to look through.
  void choose_levels() {
    const int32_t num_boxes = static_cast<int32_t>(levels_of_.size());
    const int highest =
        *std::max_element(levels_of_.begin(), levels_of_.end()) / kExponents;
    std::vector<std::vector<int32_t>> samples(kExponents * (highest + 1));
    std::vector<uint8_t> is_used(samples.size(), 0);
    for (int32_t i = 0; i < num_boxes; ++i) {
      if (levels_of_[i] < 0) continue;
      is_used[levels_of_[i]] = 1;
      if (i % kSampling == 0) samples[levels_of_[i]].push_back(i);
    }
    std::vector<int16_t> chosen(samples.size());
    for (int kind = 0; kind <= highest; ++kind) {
      const int first = kExponents * kind;
      int lowest = first;  // of those that join
      for (int level = first; level < first + kExponents; ++level) {
        if (!is_used[level]) {
          lowest = level + 1;
          continue;
        }
        const int exponent = level - first;
        if (exponent + 1 < kHuge) {
          std::vector<int32_t>& next = samples[level + 1];
          next.insert(next.end(), samples[level].begin(), samples[level].end());
          if (!is_crowded(next, cell_side(exponent + 1))) {
            is_used[level + 1] = 1;
            continue;
          }
          next.resize(next.size() - samples[level].size());
        }
        std::fill(chosen.begin() + lowest, chosen.begin() + level + 1,
                  static_cast<int16_t>(levels_.size()));
        levels_.emplace_back(exponent == kHuge
                                 ? std::numeric_limits<double>::infinity()
                                 : cell_side(exponent),
                             kind);
        lowest = level + 1;
      }
    }
    for (int16_t& level : levels_of_) {
      if (level >= 0) level = chosen[level];
    }
  }

  static double cell_side(int exponent) {
    return std::ldexp(1.0, kMinExponent + exponent);
  }

  // Whether boxes share a cell of such a side with more than a few others, as
  // far as a sample and their lower corners tell. All cells are empty.
  bool is_crowded(const std::vector<int32_t>& sample, double side) {
    const auto cell_of = [&](int32_t i) -> Cell& {
      const Hull& hull = outlines_[i].hull;
      return cells_[slot(0, cell_index(hull.x_low, 1 / side),
                         cell_index(hull.y_low, 1 / side), outlines_[i].group)];
    };
    int64_t num_pairs = 0;
    for (const int32_t i : sample) num_pairs += cell_of(i).count++;
    for (const int32_t i : sample) cell_of(i).count = 0;
    return 2 * num_pairs * kSampling >
           kFewOthers * static_cast<int64_t>(sample.size());
  }

  // Gives each cell room for all the boxes that touch it.
  void make_room() {
    const int32_t num_boxes = static_cast<int32_t>(outlines_.size());
    for (int32_t i = 0; i < num_boxes; ++i) {
      if (levels_of_[i] < 0) continue;
      for_each_cell(i, [](Cell& cell) { ++cell.count; });
    }
    int32_t num_nodes = 0;
    for (Cell& cell : cells_) {
      cell.first = num_nodes;
      num_nodes += cell.count;
      cell.count = 0;
    }
    nodes_.resize(num_nodes);
  }

  // Where 4 x 4 cells are kept, in two cache lines; the cell (x, y) is in the
  // tile (x / 4, y / 4).
  size_t tile_slot(size_t level, int64_t x, int64_t y, uint32_t group) const {
    uint64_t key = static_cast<uint64_t>(x) * 0x9E3779B97F4A7C15u +
                   static_cast<uint64_t>(y) * 0xBF58476D1CE4E5B9u +
                   (static_cast<uint64_t>(level) << 32) + group;
    key = (key ^ (key >> 32)) * 0x94D049BB133111EBu;
    key ^= key >> 29;
    return static_cast<size_t>((key << 4) & (cells_.size() - 1));
  }

  size_t slot(size_t level, int64_t x, int64_t y, uint32_t group) const {
    return tile_slot(level, x >> 2, y >> 2, group) +
           static_cast<size_t>((y & 3) * 4 + (x & 3));
  }

  // Whether no box of the level can have an IoU above the threshold with this
  // one: each lies inside the area of one cell.
  bool is_too_small(const Level& level, const Outline& outline) const {
    return level.cell * level.cell <=
           iou_threshold_ * kLess * static_cast<double>(outline.area);
  }

  static bool meet(const Outline& a, const Outline& b) {
    return hulls_meet(a.hull, b.hull) & (a.group == b.group);
  }

  // Whether the bounds of two boxes that meet leave room for an IoU above the
  // threshold.
  bool may_suppress(const Outline& a, const Outline& b) const {
    const double x = double(std::min(a.hull.x_high, b.hull.x_high)) -
                     double(std::max(a.hull.x_low, b.hull.x_low));
    const double y = double(std::min(a.hull.y_high, b.hull.y_high)) -
                     double(std::max(a.hull.y_low, b.hull.y_low));
    const double area_a = a.area, area_b = b.area;
    const double common = std::min(x * y, std::min(area_a, area_b));
    // IoU <= common / (A1 + A2 - common); NaN rules nothing out
    return !(common * (1 + iou_threshold_) <=
             iou_threshold_ * kLess * (area_a + area_b));
  }

  template <typename Visit>
  void visit_all(const Level& level, int32_t i, int32_t first,
                 const Visit& visit) const {
    for (size_t s = level.stored.size(); s-- > 0;) {
      const int32_t k = level.stored[s];
      if (k < first) break;
      if ((k < i) & meet(outlines_[k], outlines_[i]) &&
          may_suppress(outlines_[k], outlines_[i])) {
        visit(k);
      }
    }
  }

  template <typename Visit>
  void visit_cells(size_t l, const Cells& cells, int32_t i, int32_t first,
                   const Visit& visit) const {
    const uint32_t group = outlines_[i].group;
    for (int64_t tile_y = cells.y0 >> 2; tile_y <= cells.y1 >> 2; ++tile_y) {
      for (int64_t tile_x = cells.x0 >> 2; tile_x <= cells.x1 >> 2; ++tile_x) {
        const Cell* tile = &cells_[tile_slot(l, tile_x, tile_y, group)];
        const int64_t x0 = std::max(cells.x0, 4 * tile_x);
        const int64_t x1 = std::min(cells.x1, 4 * tile_x + 3);
        const int64_t y1 = std::min(cells.y1, 4 * tile_y + 3);
        for (int64_t y = std::max(cells.y0, 4 * tile_y); y <= y1; ++y) {
          for (int64_t x = x0; x <= x1; ++x) {
            const Cell& cell = tile[(y & 3) * 4 + (x & 3)];
            if (cell.count == 0) continue;
            visit_cell(l, cells, x, y, cell, i, first, visit);
          }
        }
      }
    }
  }

  template <typename Visit>
  void visit_cell(size_t l, const Cells& cells, int64_t x, int64_t y,
                  const Cell& stored, int32_t i, int32_t first,
                  const Visit& visit) const {
    const Outline& outline = outlines_[i];
    // A pair is visited in the first cell that both touch.
    const double infinity = std::numeric_limits<double>::infinity();
    const double cell = levels_[l].cell;
    const double least_x = x > cells.x0 ? x * cell : -infinity;
    const double least_y = y > cells.y0 ? y * cell : -infinity;
    const Node* const begin = &nodes_[stored.first];
    for (int32_t n = stored.count; n-- > 0;) {
      const Node& node = begin[n];
      if (node.box < first) break;
      const Hull& hull = node.outline.hull;
      // One branch for all that is often false, none of them to be foreseen.
      if ((node.box < i) & meet(node.outline, outline) &&
          may_suppress(node.outline, outline) &&
          std::max(hull.x_low, outline.hull.x_low) >= least_x &&
          std::max(hull.y_low, outline.hull.y_low) >= least_y) {
        visit(node.box);
      }
    }
  }

  std::vector<Outline> outlines_;
  std::vector<int16_t> levels_of_;  // of each box; -1: it has no area
  std::vector<Level> levels_;
  std::vector<Cell> cells_;
  std::vector<Node> nodes_;
  double iou_threshold_;
};

}  // namespace tcm_d2
