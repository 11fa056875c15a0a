// What two rotated rectangles are enclosed by, for GIoU and DIoU: the convex
// hull of their eight corners, its area and its diameter. For host and device.
//
// Area. The corners are seen in the centred frame of the rectangle with the
// longest side, scaled to the unit square, and the hull is walked along its
// lower and its upper chain, always to the corner of extreme slope. Each step
// goes to a larger x, so that the walk ends whatever the rounding. Hull edges
// that lie on an edge of the frame's rectangle are borders of the unit square:
// corners within rounding of it are put onto it, and of several only the outer
// ones count.
//
// Gradient. A hull vertex that moves changes the area by half the cross product
// with its neighbours' distance. Corners that coincide share their gradient, so
// that identical boxes stay where they are.

#pragma once

#include "rotated_gradient.h"

namespace tcm_d2 {

// Roundings of the hull's size within which corners coincide, corners lie on
// the border, and distances are equal.
constexpr int kHullUlps = 64;

// A box of any finite size: unlike Rect also without area. Negative sides are
// zero.
template <typename T>
struct Outline {
  T cx, cy, w, h, cos, sin;
  bool is_finite, w_grows, h_grows;  // whether w (h) changes the box at all
};

// The corners of both boxes, the first box's in 0..3, in a common frame turned
// by (cos, sin) against the screen.
template <typename T>
struct CornerPair {
  T x[8], y[8], cos, sin;
};

// The derivatives of some number wrt the corners, in the frame of the corners.
template <typename T>
struct CornerGrad {
  T x[8], y[8];
};

// A number for each pair, and its derivative wrt the parameters of one box.
template <typename T>
struct Derived {
  T value;
  BoxGrad<T> grad1, grad2;
};

template <typename T>
TCM_D2_HD BoxGrad<T> scaled(const BoxGrad<T>& grad, T factor) {
  return {grad.cx * factor, grad.cy * factor, grad.w * factor, grad.h * factor,
          grad.angle_deg * factor};
}

// Corner k of a box lies at k's signs along its width and its height axis.
template <typename T>
TCM_D2_HD T sign_w(int k) {
  return (k & 2) ? T(-1) : T(1);
}

template <typename T>
TCM_D2_HD T sign_h(int k) {
  return (k == 1 || k == 2) ? T(-1) : T(1);
}

template <typename T, typename Scalar>
TCM_D2_HD Outline<T> make_outline(const Scalar* box) {
  const T w = static_cast<T>(box[2]);
  const T h = static_cast<T>(box[3]);
  const T angle_deg = static_cast<T>(box[4]);
  Outline<T> outline = {static_cast<T>(box[0]),
                        static_cast<T>(box[1]),
                        larger(w, T(0)),
                        larger(h, T(0)),
                        T(1),
                        T(0),
                        false,
                        w >= T(0),
                        h >= T(0)};
  outline.is_finite = is_finite(outline.cx) && is_finite(outline.cy) &&
                      is_finite(w) && is_finite(h) && is_finite(angle_deg);
  if (outline.is_finite) {
    cos_sin_deg(angle_deg, &outline.cos, &outline.sin);
  }
  return outline;
}

// An order by values alone, the longest side first: whichever box comes as the
// first argument, the arithmetic is the same.
template <typename T>
TCM_D2_HD bool is_frame(const Outline<T>& a, const Outline<T>& b) {
  const T longest_a = larger(a.w, a.h);
  const T longest_b = larger(b.w, b.h);
  if (longest_a != longest_b) return longest_a > longest_b;
  if (a.w != b.w) return a.w > b.w;
  if (a.h != b.h) return a.h > b.h;
  if (a.cx != b.cx) return a.cx > b.cx;
  if (a.cy != b.cy) return a.cy > b.cy;
  if (a.cos != b.cos) return a.cos > b.cos;
  return a.sin >= b.sin;
}

template <typename T>
TCM_D2_HD CornerPair<T> make_corners(const Outline<T>& box1,
                                     const Outline<T>& box2) {
  const bool first_is_frame = is_frame(box1, box2);
  const Outline<T>& frame = first_is_frame ? box1 : box2;
  const Outline<T>& other = first_is_frame ? box2 : box1;
  const T dx = other.cx - frame.cx;
  const T dy = other.cy - frame.cy;
  const T x = dx * frame.cos - dy * frame.sin;
  const T y = dx * frame.sin + dy * frame.cos;
  const T c = other.cos * frame.cos + other.sin * frame.sin;
  const T s = other.sin * frame.cos - other.cos * frame.sin;
  CornerPair<T> corners;
  corners.cos = frame.cos;
  corners.sin = frame.sin;
  const int frame_at = first_is_frame ? 0 : 4;
  for (int k = 0; k < 4; ++k) {
    const T along_w = sign_w<T>(k) / 2;
    const T along_h = sign_h<T>(k) / 2;
    corners.x[frame_at + k] = along_w * frame.w;
    corners.y[frame_at + k] = along_h * frame.h;
    corners.x[4 - frame_at + k] =
        x + (along_w * (c * other.w) + along_h * (s * other.h));
    corners.y[4 - frame_at + k] =
        y + (along_h * (c * other.h) - along_w * (s * other.w));
  }
  return corners;
}

// Derivatives wrt a box's parameters from those wrt its corners, first..first +
// 3.
template <typename T>
TCM_D2_HD BoxGrad<T> chain_corners(const CornerGrad<T>& grad,
                                   const CornerPair<T>& corners, int first,
                                   const Outline<T>& box) {
  BoxGrad<T> sum = {0, 0, 0, 0, 0};
  T angle_rad = T(0);
  for (int k = 0; k < 4; ++k) {
    const T gx = grad.x[first + k];
    const T gy = grad.y[first + k];
    const T on_screen_x = gx * corners.cos + gy * corners.sin;
    const T on_screen_y = gy * corners.cos - gx * corners.sin;
    const T along_w = on_screen_x * box.cos - on_screen_y * box.sin;
    const T along_h = on_screen_x * box.sin + on_screen_y * box.cos;
    sum.cx += on_screen_x;
    sum.cy += on_screen_y;
    sum.w += sign_w<T>(k) * along_w / 2;
    sum.h += sign_h<T>(k) * along_h / 2;
    angle_rad +=
        (sign_h<T>(k) * box.h * along_w - sign_w<T>(k) * box.w * along_h) / 2;
  }
  if (!box.w_grows) sum.w = T(0);
  if (!box.h_grows) sum.h = T(0);
  sum.angle_deg = angle_rad * T(3.14159265358979323846 / 180.0);
  return sum;
}

// Puts coordinates into [0, 1], those within rounding of an end onto it, and
// returns their extent (0: nothing was done).
template <typename T>
TCM_D2_HD T scale_to_unit(const T* values, T* unit) {
  T low = values[0];
  T high = values[0];
  for (int i = 1; i < 8; ++i) {
    low = smaller(low, values[i]);
    high = larger(high, values[i]);
  }
  const T extent = high - low;
  if (!(extent > T(0))) {
    return T(0);
  }
  const T tolerance = kHullUlps * std::numeric_limits<T>::epsilon();
  for (int i = 0; i < 8; ++i) {
    const T value = (values[i] - low) / extent;
    unit[i] =
        value <= tolerance ? T(0) : (value >= T(1) - tolerance ? T(1) : value);
  }
  return extent;
}

// The corner after `from` on the lower (sign 1) or upper (sign -1) chain: of
// all with a larger x that with the extreme slope, of several the farthest. -1
// at the end.
template <typename T>
TCM_D2_HD int next_on_chain(const T* x, const T* y, int from, T sign) {
  int best = -1;
  T best_slope = T(0);
  for (int i = 0; i < 8; ++i) {
    if (!(x[i] > x[from])) continue;
    const T slope = sign * (y[i] - y[from]) / (x[i] - x[from]);
    const bool farther =
        best >= 0 && slope == best_slope &&
        (x[i] > x[best] || (x[i] == x[best] && sign * y[i] < sign * y[best]));
    if (best < 0 || slope < best_slope || farther) {
      best = i;
      best_slope = slope;
    }
  }
  return best;
}

// The area on the left of an edge, down to y = 0, and its derivatives.
template <typename T>
TCM_D2_HD T add_hull_edge(const T* x, const T* y, int from, int to,
                          CornerGrad<T>* grad) {
  const T width = (x[from] - x[to]) / 2;
  const T height = (y[from] + y[to]) / 2;
  grad->x[from] += height;
  grad->x[to] -= height;
  grad->y[from] += width;
  grad->y[to] += width;
  return 2 * width * height;
}

// Corners that coincide get the mean of their gradients.
template <typename T>
TCM_D2_HD CornerGrad<T> share_gradient(const T* x, const T* y,
                                       const CornerGrad<T>& grad) {
  const T tolerance = kHullUlps * std::numeric_limits<T>::epsilon();
  CornerGrad<T> shared;
  for (int i = 0; i < 8; ++i) {
    T sum_x = T(0);
    T sum_y = T(0);
    int count = 0;
    for (int j = 0; j < 8; ++j) {
      if (std::fabs(x[j] - x[i]) <= tolerance &&
          std::fabs(y[j] - y[i]) <= tolerance) {
        sum_x += grad.x[j];
        sum_y += grad.y[j];
        ++count;
      }
    }
    shared.x[i] = sum_x / count;
    shared.y[i] = sum_y / count;
  }
  return shared;
}

// Area of the convex hull of the corners, and its derivatives wrt them where
// `grad` is not null.
template <typename T>
TCM_D2_HD T hull_area(const CornerPair<T>& corners, CornerGrad<T>* grad) {
  T x[8];
  T y[8];
  CornerGrad<T> unit_grad;
  for (int i = 0; i < 8; ++i) {
    unit_grad.x[i] = unit_grad.y[i] = T(0);
  }
  const T width = scale_to_unit(corners.x, x);
  const T height = scale_to_unit(corners.y, y);
  if (!(width > T(0) && height > T(0))) {
    if (grad != nullptr) *grad = unit_grad;
    return T(0);
  }
  int low = -1;  // the lower and the upper corner at x = 0
  int high = -1;
  for (int i = 0; i < 8; ++i) {
    if (x[i] > T(0)) continue;
    if (low < 0 || y[i] < y[low]) low = i;
    if (high < 0 || y[i] > y[high]) high = i;
  }
  T area = add_hull_edge(x, y, high, low, &unit_grad);
  for (int next; (next = next_on_chain(x, y, low, T(1))) >= 0; low = next) {
    area += add_hull_edge(x, y, low, next, &unit_grad);
  }
  for (int next; (next = next_on_chain(x, y, high, T(-1))) >= 0; high = next) {
    area += add_hull_edge(x, y, next, high, &unit_grad);
  }
  area += add_hull_edge(x, y, low, high, &unit_grad);
  if (grad != nullptr) {
    *grad = share_gradient(x, y, unit_grad);
    for (int i = 0; i < 8; ++i) {
      grad->x[i] *= height;
      grad->y[i] *= width;
    }
  }
  return area * width * height;
}

// The largest squared distance between two corners, and its derivatives; of
// equal ones the mean. A box's own diagonal is taken from its sides.
template <typename T>
TCM_D2_HD Derived<T> squared_diameter(const CornerPair<T>& corners,
                                      const Outline<T>& box1,
                                      const Outline<T>& box2) {
  const T own1 = box1.w * box1.w + box1.h * box1.h;
  const T own2 = box2.w * box2.w + box2.h * box2.h;
  T largest = larger(own1, own2);
  for (int i = 0; i < 4; ++i) {
    for (int j = 4; j < 8; ++j) {
      const T dx = corners.x[i] - corners.x[j];
      const T dy = corners.y[i] - corners.y[j];
      largest = larger(largest, dx * dx + dy * dy);
    }
  }
  const T enough =
      largest * (T(1) - kHullUlps * std::numeric_limits<T>::epsilon());
  CornerGrad<T> grad;
  for (int i = 0; i < 8; ++i) {
    grad.x[i] = grad.y[i] = T(0);
  }
  int count = (own1 >= enough) + (own2 >= enough);
  for (int i = 0; i < 4; ++i) {
    for (int j = 4; j < 8; ++j) {
      const T dx = corners.x[i] - corners.x[j];
      const T dy = corners.y[i] - corners.y[j];
      if (!(dx * dx + dy * dy >= enough)) continue;
      ++count;
      grad.x[i] += 2 * dx;
      grad.y[i] += 2 * dy;
      grad.x[j] -= 2 * dx;
      grad.y[j] -= 2 * dy;
    }
  }
  const T share = T(1) / larger(count, 1);
  Derived<T> result = {largest,
                       scaled(chain_corners(grad, corners, 0, box1), share),
                       scaled(chain_corners(grad, corners, 4, box2), share)};
  if (own1 >= enough) {
    result.grad1.w += 2 * box1.w * share;
    result.grad1.h += 2 * box1.h * share;
  }
  if (own2 >= enough) {
    result.grad2.w += 2 * box2.w * share;
    result.grad2.h += 2 * box2.h * share;
  }
  return result;
}

}  // namespace tcm_d2
