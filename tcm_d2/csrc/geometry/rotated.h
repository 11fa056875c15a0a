// Geometry of rotated rectangles: the only copy, for host and device. The
// gradients follow in rotated_gradient.h.
//
// A box is (cx, cy, w, h, angle_deg), the angle counter-clockwise on screen
// (y down). Its axes are U = (cos, -sin) along the width and V = (sin, cos)
// along the height.
//
// Intersection. One rectangle (the "window") is seen in its own centred frame,
// where it is |x| <= a, |y| <= b. Clipping the other, a convex polygon, against
// it and taking the area of the result is, by Green's theorem, one sum over the
// polygon's four edges: the integral of clamp(y, -b, b) dx over |x| <= a. This
// equals Sutherland-Hodgman clipping, but keeps no list of vertices, so nothing
// has to be sorted or matched, and near-identical boxes are no special case.
//
// T is the type of the arithmetic: double, or on the CPU a Pack of doubles
// (pack.h), hence select() instead of branches. Every lane of a pack does
// what a double alone would, to the last bit. It is double for float boxes too:
// a 1:1000 box of 1000 px loses 1e-4 of IoU to single-precision corners alone.

#pragma once

#include <cmath>
#include <limits>

#if defined(__CUDACC__)
#define TCM_D2_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
// Inlined even into functions compiled for another instruction set.
#define TCM_D2_HD inline __attribute__((always_inline))
#else
#define TCM_D2_HD inline
#endif

namespace tcm_d2 {

// A prepared box. All zero when it has no positive area or a non-finite number;
// area > 0 says that it is valid.
template <typename T>
struct Rect {
  T cx, cy, half_w, half_h, cos, sin, area;
};

// Upright bounds, rounded outward. Rectangles whose hulls don't meet have no
// common area, and intersection_area() is then exactly zero. Empty (low above
// high) for boxes without an area.
struct Hull {
  float x_low, x_high, y_low, y_high;
};

// Rectangle 1 in the centred frame of rectangle 2: centre, cosine and sine.
template <typename T>
struct Relative {
  T x, y, cos, sin;
};

template <typename T>
TCM_D2_HD T select(bool condition, T yes, T no) {
  return condition ? yes : no;
}

TCM_D2_HD bool any(bool condition) { return condition; }

TCM_D2_HD bool all(bool condition) { return condition; }

TCM_D2_HD double absolute(double value) { return std::fabs(value); }

// Degrees less whole turns where there are very many of them.
TCM_D2_HD double without_turns(double angle_deg) {
  constexpr double kFew = 1099511627776.0;  // 2^40: quarters stay exact
  return std::fabs(angle_deg) < kFew ? angle_deg : std::fmod(angle_deg, 360.0);
}

// The second argument where one of them is NaN.
template <typename T>
TCM_D2_HD T smaller(T a, T b) {
  return select(a < b, a, b);
}

template <typename T>
TCM_D2_HD T larger(T a, T b) {
  return select(a > b, a, b);
}

// low for NaN
template <typename T>
TCM_D2_HD T clamped(T value, T low, T high) {
  return smaller(larger(value, low), high);
}

template <typename T>
TCM_D2_HD auto is_finite(T value) {
  return value - value == T(0);
}

// Nearest integer, for |value| < 2^51.
template <typename T>
TCM_D2_HD T nearest(T value) {
  const T shift = T(6755399441055744.0);  // 1.5 * 2^52: no room for a fraction
  return (value + shift) - shift;
}

// Cosine and sine of degrees, exact at multiples of 90. By Taylor's series on
// [-45, 45] degrees, cut below 1e-18: only sums and products, so that packs,
// every CPU and CUDA agree to the last bit, which libraries' functions don't.
template <typename T>
TCM_D2_HD void cos_sin_deg(T angle_deg, T* cos_out, T* sin_out) {
  const T reduced = without_turns(angle_deg);
  const T quarter = nearest(reduced / T(90));
  const T x = (reduced - T(90) * quarter) * T(3.14159265358979323846 / 180.0);
  const T z = x * x;
  T s = T(1.0 / 355687428096000.0);  // 1 / 17!
  s = s * z - T(1.0 / 1307674368000.0);
  s = s * z + T(1.0 / 6227020800.0);
  s = s * z - T(1.0 / 39916800.0);
  s = s * z + T(1.0 / 362880.0);
  s = s * z - T(1.0 / 5040.0);
  s = s * z + T(1.0 / 120.0);
  s = s * z - T(1.0 / 6.0);
  s = x + x * (z * s);
  T c = T(1.0 / 20922789888000.0);  // 1 / 16!
  c = c * z - T(1.0 / 87178291200.0);
  c = c * z + T(1.0 / 479001600.0);
  c = c * z - T(1.0 / 3628800.0);
  c = c * z + T(1.0 / 40320.0);
  c = c * z - T(1.0 / 720.0);
  c = c * z + T(1.0 / 24.0);
  c = T(1) + z * (c * z - T(0.5));
  const T turn = quarter - T(4) * nearest(quarter * T(0.25));  // -2 ... 2
  const auto odd = absolute(turn) == T(1);
  const auto flip = (turn == T(-1)) | (absolute(turn) == T(2));
  const T cos_odd = select(odd, -s, c);
  const T sin_odd = select(odd, c, s);
  *cos_out = select(flip, -cos_odd, cos_odd);
  *sin_out = select(flip, -sin_odd, sin_odd);
}

template <typename T>
TCM_D2_HD Rect<T> make_rect(T cx, T cy, T w, T h, T angle_deg) {
  const T area = w * h;
  const T zero = T(0);
  const auto valid = (w > zero) & (h > zero) & (area > zero) & is_finite(cx) &
                     is_finite(cy) & is_finite(angle_deg) & is_finite(area);
  T cos, sin;
  cos_sin_deg(angle_deg, &cos, &sin);
  return {select(valid, cx, zero),         select(valid, cy, zero),
          select(valid, w * T(0.5), zero), select(valid, h * T(0.5), zero),
          select(valid, cos, zero),        select(valid, sin, zero),
          select(valid, area, zero)};
}

template <typename T, typename Scalar>
TCM_D2_HD Rect<T> make_rect(const Scalar* box) {
  return make_rect<T>(static_cast<T>(box[0]), static_cast<T>(box[1]),
                      static_cast<T>(box[2]), static_cast<T>(box[3]),
                      static_cast<T>(box[4]));
}

// The float below value: less two roundings, and less the smallest floats.
TCM_D2_HD float rounded_down(double value) {
  return static_cast<float>(value - (std::fabs(value) * 2.4e-7 + 1e-44));
}

TCM_D2_HD Hull make_hull(const Rect<double>& rect) {
  if (!(rect.area > 0)) {
    const float infinity = std::numeric_limits<float>::infinity();
    return {infinity, -infinity, infinity, -infinity};
  }
  // Much more than the rounding of are_separated(), which depends on the longer
  // side: what is apart here must be apart there.
  const double slack = 1e-10 * (rect.half_w + rect.half_h);
  const double c = std::fabs(rect.cos);
  const double s = std::fabs(rect.sin);
  const double reach_x = rect.half_w * c + rect.half_h * s + slack;
  const double reach_y = rect.half_w * s + rect.half_h * c + slack;
  return {rounded_down(rect.cx - reach_x), -rounded_down(-rect.cx - reach_x),
          rounded_down(rect.cy - reach_y), -rounded_down(-rect.cy - reach_y)};
}

TCM_D2_HD bool hulls_meet(const Hull& a, const Hull& b) {
  return (a.x_low <= b.x_high) & (b.x_low <= a.x_high) & (a.y_low <= b.y_high) &
         (b.y_low <= a.y_high);
}

template <typename T>
TCM_D2_HD auto is_same(const Rect<T>& a, const Rect<T>& b) {
  return (a.cx == b.cx) & (a.cy == b.cy) & (a.half_w == b.half_w) &
         (a.half_h == b.half_h) & (a.cos == b.cos) & (a.sin == b.sin);
}

template <typename T>
TCM_D2_HD Relative<T> relative_to(const Rect<T>& subject,
                                  const Rect<T>& window) {
  const T dx = subject.cx - window.cx;
  const T dy = subject.cy - window.cy;
  return {dx * window.cos - dy * window.sin, dx * window.sin + dy * window.cos,
          subject.cos * window.cos + subject.sin * window.sin,
          subject.sin * window.cos - subject.cos * window.sin};
}

// An order by values alone, larger area first. It makes the intersection
// symmetric to the last bit, and the smaller rectangle the window, so that
// rounding is relative to the smaller area.
template <typename T>
TCM_D2_HD auto comes_first(const Rect<T>& a, const Rect<T>& b) {
  const auto tied = a.area == b.area;
  auto first = a.area > b.area;
  if (any(tied)) {
    const auto by_angle =
        (a.cos > b.cos) | ((a.cos == b.cos) & (a.sin >= b.sin));
    const auto by_width =
        (a.half_w > b.half_w) | ((a.half_w == b.half_w) & by_angle);
    const auto by_y = (a.cy > b.cy) | ((a.cy == b.cy) & by_width);
    first = first | (tied & ((a.cx > b.cx) | ((a.cx == b.cx) & by_y)));
  }
  return first;
}

template <typename T, typename Mask>
TCM_D2_HD Rect<T> select_rect(Mask condition, const Rect<T>& yes,
                              const Rect<T>& no) {
  return {select(condition, yes.cx, no.cx),
          select(condition, yes.cy, no.cy),
          select(condition, yes.half_w, no.half_w),
          select(condition, yes.half_h, no.half_h),
          select(condition, yes.cos, no.cos),
          select(condition, yes.sin, no.sin),
          select(condition, yes.area, no.area)};
}

// Integral of clamp(y, -b, b) dx along an edge, over |x| <= a. What a division
// by zero gives is clamped to 0 or 1, or meets a width of zero.
template <typename T>
TCM_D2_HD T strip_integral(T x0, T y0, T x1, T y1, T slope, T a, T b) {
  const T cut0 = clamped(x0, -a, a);
  const T cut1 = clamped(x1, -a, a);
  const T width = cut1 - cut0;
  // Each end from its own corner: an edge that isn't cut keeps its ends
  // exactly.
  const T ya = y0 + (cut0 - x0) * slope;
  const T yb = y1 + (cut1 - x1) * slope;
  const T low = smaller(ya, yb);
  const T high = larger(ya, yb);
  const T inverse_rise = T(1) / (high - low);
  // Shares of the width where y < -b, and where y > b.
  const T below = clamped((-b - low) * inverse_rise, T(0), T(1));
  const T above = clamped((high - b) * inverse_rise, T(0), T(1));
  const T middle = larger(T(1) - below - above, T(0));
  const T mean = b * (above - below) +
                 middle * T(0.5) * (clamped(low, -b, b) + clamped(high, -b, b));
  return select(width == T(0), T(0), width * mean);
}

// Whether a line along one of the four axes separates the rectangles (touching
// counts). Without it, rounding would leave 1e-16 of area to disjoint boxes.
template <typename T>
TCM_D2_HD auto are_separated(const Relative<T>& frame, const Rect<T>& subject,
                             const Rect<T>& window) {
  const T c = absolute(frame.cos);
  const T s = absolute(frame.sin);
  return (absolute(frame.x) >=
          window.half_w + (subject.half_w * c + subject.half_h * s)) |
         (absolute(frame.y) >=
          window.half_h + (subject.half_w * s + subject.half_h * c)) |
         (absolute(frame.x * frame.cos - frame.y * frame.sin) >=
          subject.half_w + (window.half_w * c + window.half_h * s)) |
         (absolute(frame.x * frame.sin + frame.y * frame.cos) >=
          subject.half_h + (window.half_w * s + window.half_h * c));
}

// Area common to both rectangles; in [0, smaller area], never NaN.
template <typename T>
TCM_D2_HD T intersection_area(const Rect<T>& rect1, const Rect<T>& rect2) {
  const auto in_order = comes_first(rect1, rect2);
  const Rect<T> subject = select_rect(in_order, rect1, rect2);
  const Rect<T> window = select_rect(in_order, rect2, rect1);
  const Relative<T> frame = relative_to(subject, window);
  const auto apart =
      are_separated(frame, subject, window) | (window.area == T(0));
  if (all(apart)) {
    return T(0);
  }
  const T ux = frame.cos * subject.half_w;
  const T uy = -frame.sin * subject.half_w;
  const T vx = frame.sin * subject.half_h;
  const T vy = frame.cos * subject.half_h;
  const T x0 = frame.x + (ux + vx), y0 = frame.y + (uy + vy);
  const T x1 = frame.x + (ux - vx), y1 = frame.y + (uy - vy);
  const T x2 = frame.x + (-ux - vx), y2 = frame.y + (-uy - vy);
  const T x3 = frame.x + (vx - ux), y3 = frame.y + (vy - uy);
  const T a = window.half_w, b = window.half_h;
  const T slope_u = uy / ux;
  const T slope_v = vy / vx;
  const T sum = strip_integral(x0, y0, x1, y1, slope_v, a, b) +
                strip_integral(x1, y1, x2, y2, slope_u, a, b) +
                strip_integral(x2, y2, x3, y3, slope_v, a, b) +
                strip_integral(x3, y3, x0, y0, slope_u, a, b);
  const T area = clamped(absolute(sum), T(0), window.area);
  const T common = select(is_same(rect1, rect2), rect1.area, area);
  return select(apart, T(0), common);
}

// Intersection over the union, or over the area of rect1; in [0, 1].
template <typename T>
TCM_D2_HD T overlap(const Rect<T>& rect1, const Rect<T>& rect2, bool iof) {
  const T common = intersection_area(rect1, rect2);
  const T whole = iof ? rect1.area : rect1.area + rect2.area - common;
  return select(common > T(0), smaller(common / whole, T(1)), T(0));
}

}  // namespace tcm_d2
