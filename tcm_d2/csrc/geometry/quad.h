// Geometry of quadrilaterals given as four corners x, y, in double precision,
// for host and device.
//
// IoU. A quad is a signed sum of the trapezoids under its edges, that is, its
// winding number, turned so that its area is not negative. The area common to
// two of them is the sum over the 16 pairs of edges of the integral of the
// lower of two straight lines: a closed form without special cases. For simple
// quads, convex or not, it is the area of the intersection; for others it is
// what the DOTA devkit's polyiou computes.
//
// Smallest rectangle. It has a side on an edge of the corners' convex hull
// (Freeman and Shapira, 1975). Each line through two of the four corners is
// tried, which covers the hull's edges without finding the hull.

#pragma once

#include <cmath>
#include <limits>

#include "rotated.h"

namespace tcm_d2 {

// Edges with less horizontal extent cover no area that a double could tell
// from zero.
constexpr double kVerticalExtent = 1e-30;
// Rectangles whose areas differ by less, relative to the smallest and to the
// square of the corners' largest distance, are ties.
constexpr double kAreaTie = 1e-9;
constexpr double kFlatTie = 1e-15;

struct Quad {
  double x[4], y[4];
  double area;  // signed
  double left, right, top, bottom;
};

// The first argument where one of them is NaN.
TCM_D2_HD double lesser(double a, double b) { return b < a ? b : a; }

TCM_D2_HD double greater(double a, double b) { return a < b ? b : a; }

template <typename Scalar>
TCM_D2_HD Quad make_quad(const Scalar* corners) {
  Quad quad;
  for (int i = 0; i < 4; ++i) {
    quad.x[i] = static_cast<double>(corners[2 * i]);
    quad.y[i] = static_cast<double>(corners[2 * i + 1]);
  }
  double doubled = 0.0;
  for (int i = 0; i < 4; ++i) {
    const int j = (i + 1) & 3;
    doubled += (quad.x[i] - quad.x[0]) * (quad.y[j] - quad.y[0]) -
               (quad.y[i] - quad.y[0]) * (quad.x[j] - quad.x[0]);
  }
  quad.area = 0.5 * doubled;
  quad.left = quad.right = quad.x[0];
  quad.top = quad.bottom = quad.y[0];
  for (int i = 1; i < 4; ++i) {
    quad.left = lesser(quad.left, quad.x[i]);
    quad.right = greater(quad.right, quad.x[i]);
    quad.top = lesser(quad.top, quad.y[i]);
    quad.bottom = greater(quad.bottom, quad.y[i]);
  }
  return quad;
}

// An edge as a line over x: y(x) = height + slope * (x - left).
struct QuadEdge {
  double left, right, height, slope, sign;
};

TCM_D2_HD void make_edges(const Quad& quad, double base, QuadEdge* edges) {
  for (int i = 0; i < 4; ++i) {
    const int j = (i + 1) & 3;
    const double x0 = quad.x[i];
    const double x1 = quad.x[j];
    const double y0 = quad.y[i] - base;
    const double y1 = quad.y[j] - base;
    const double run = x1 - x0;
    const bool is_vertical = std::fabs(run) < kVerticalExtent;
    const bool forward = run >= 0;
    double sign = is_vertical ? 0.0 : (run > 0 ? 1.0 : -1.0);
    if (quad.area < 0) sign = -sign;
    edges[i] = {forward ? x0 : x1, forward ? x1 : x0, forward ? y0 : y1,
                is_vertical ? 0.0 : (y1 - y0) / run, sign};
  }
}

// Signed integral of the lower of two lines over their common x range.
TCM_D2_HD double integrate_lower(const QuadEdge& one, const QuadEdge& two) {
  const double low = greater(one.left, two.left);
  const double width = lesser(one.right, two.right) - low;
  if (!(width > 0)) {
    return 0.0;
  }
  const double y1_low = one.height + one.slope * (low - one.left);
  const double y2_low = two.height + two.slope * (low - two.left);
  const double y1_high = y1_low + one.slope * width;
  const double y2_high = y2_low + two.slope * width;
  const double gap_low = y1_low - y2_low;
  const double gap_high = y1_high - y2_high;
  // Mean of |gap|, a line that may change its sign once.
  double mean_gap = std::fabs(gap_low) + std::fabs(gap_high);
  if (gap_low * gap_high < 0) {
    mean_gap = (gap_low * gap_low + gap_high * gap_high) / mean_gap;
  }
  mean_gap = 0.5 * mean_gap;
  const double mean_lower =
      0.25 * (y1_low + y1_high + y2_low + y2_high) - 0.5 * mean_gap;
  return one.sign * two.sign * width * mean_lower;
}

// IoU; 0 for quads apart, without area, or with a corner that is not finite.
TCM_D2_HD double quad_iou(const Quad& one, const Quad& two) {
  const bool bounds_overlap =
      lesser(one.right, two.right) > greater(one.left, two.left) &&
      lesser(one.bottom, two.bottom) > greater(one.top, two.top);
  if (!bounds_overlap) {
    return 0.0;
  }
  const double base = lesser(one.top, two.top);
  QuadEdge edges1[4];
  QuadEdge edges2[4];
  make_edges(one, base, edges1);
  make_edges(two, base, edges2);
  double common = 0.0;
  for (const QuadEdge& edge1 : edges1) {
    for (const QuadEdge& edge2 : edges2) {
      common += integrate_lower(edge1, edge2);
    }
  }
  const double whole = std::fabs(one.area) + std::fabs(two.area) - common;
  const double iou = common / whole;
  return common > 0 && iou - iou == 0 ? iou : 0.0;
}

// Extent of four points along an axis through the origin.
struct Extent {
  double low, high;

  TCM_D2_HD double length() const { return high - low; }
  TCM_D2_HD double middle() const { return (low + high) / 2; }
};

TCM_D2_HD Extent extent_along(const double* x, const double* y, double ux,
                              double uy) {
  Extent extent = {x[0] * ux + y[0] * uy, x[0] * ux + y[0] * uy};
  for (int i = 1; i < 4; ++i) {
    const double along = x[i] * ux + y[i] * uy;
    extent.low = lesser(extent.low, along);
    extent.high = greater(extent.high, along);
  }
  return extent;
}

// A rectangle around the corners: axis (ux, uy), and extents along it and
// across it, (-uy, ux).
struct Frame {
  double ux, uy;
  Extent along, across;

  TCM_D2_HD double area() const { return along.length() * across.length(); }
};

// Of the rectangles along the lines through two corners, sides first, the first
// whose area is the smallest.
TCM_D2_HD Frame smallest_frame(const double* x, const double* y) {
  constexpr int kStarts[6] = {0, 1, 2, 3, 0, 1};
  constexpr int kEnds[6] = {1, 2, 3, 0, 2, 3};
  Frame frames[6];
  double smallest = std::numeric_limits<double>::infinity();
  double longest = 0.0;
  for (int i = 0; i < 6; ++i) {
    const double dx = x[kEnds[i]] - x[kStarts[i]];
    const double dy = y[kEnds[i]] - y[kStarts[i]];
    const double length = std::hypot(dx, dy);
    Frame& frame = frames[i];
    // A point of no extent has no direction: take the x axis.
    frame.ux = length > 0 ? dx / length : 1.0;
    frame.uy = length > 0 ? dy / length : 0.0;
    frame.along = extent_along(x, y, frame.ux, frame.uy);
    frame.across = extent_along(x, y, -frame.uy, frame.ux);
    smallest = lesser(smallest, frame.area());
    longest = greater(longest, length);
  }
  const double enough =
      smallest * (1 + kAreaTie) + kFlatTie * longest * longest;
  for (const Frame& frame : frames) {
    if (frame.area() <= enough) return frame;
  }
  return frames[0];  // corners so large that no area is finite
}

// Writes the canonical box (w >= h, angle in [-90, 90)) of a quad; NaN when a
// corner is not finite.
template <typename Scalar>
TCM_D2_HD void write_minimum_area_box(const Scalar* corners, Scalar* box) {
  double x[4];
  double y[4];
  double mean_x = 0.0;
  double mean_y = 0.0;
  for (int i = 0; i < 4; ++i) {
    x[i] = static_cast<double>(corners[2 * i]);
    y[i] = static_cast<double>(corners[2 * i + 1]);
    mean_x += x[i] / 4;
    mean_y += y[i] / 4;
  }
  if (!(mean_x - mean_x == 0 && mean_y - mean_y == 0)) {
    for (int i = 0; i < 5; ++i) {
      box[i] = std::numeric_limits<Scalar>::quiet_NaN();
    }
    return;
  }
  for (int i = 0; i < 4; ++i) {
    x[i] -= mean_x;
    y[i] -= mean_y;
  }
  const Frame frame = smallest_frame(x, y);
  const double along = frame.along.middle();
  const double across = frame.across.middle();
  const bool turn = frame.along.length() < frame.across.length();
  double ux = turn ? -frame.uy : frame.ux;
  double uy = turn ? frame.ux : frame.uy;
  if (ux < 0 || (ux == 0 && uy < 0)) {
    ux = -ux;
    uy = -uy;
  }
  const double angle_deg =
      std::atan2(0.0 - uy, ux) * (180.0 / 3.14159265358979323846);
  box[0] = static_cast<Scalar>(mean_x + (along * frame.ux - across * frame.uy));
  box[1] = static_cast<Scalar>(mean_y + (along * frame.uy + across * frame.ux));
  box[2] =
      static_cast<Scalar>(greater(frame.along.length(), frame.across.length()));
  box[3] =
      static_cast<Scalar>(lesser(frame.along.length(), frame.across.length()));
  box[4] = static_cast<Scalar>(angle_deg);
  if (box[4] >= Scalar(90)) box[4] = Scalar(-90);  // rounded up to the seam
}

}  // namespace tcm_d2
