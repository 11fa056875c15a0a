// Geometry of rotated rectangles: the only copy, for host and device.
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
// Gradient. When an edge moves, the area grows by the integral of the edge's
// normal speed over the part of it inside the other rectangle, so the length
// and first moment of that part, per edge, give all ten derivatives.
//
// T is the type of the arithmetic. The kernels use double for float inputs too:
// a 1:1000 box of 1000 px loses 1e-4 of IoU to single-precision corners alone.

#pragma once

#include <cmath>
#include <limits>

#if defined(__CUDACC__)
#define TCM_D2_HD __host__ __device__ __forceinline__
#else
#define TCM_D2_HD inline
#endif

namespace tcm_d2 {

// A prepared box. All zero when it has no positive area or a non-finite number;
// area > 0 says that it is valid.
template <typename T>
struct Rect {
  T cx, cy, half_w, half_h, cos, sin, area, radius;
};

// Rectangle 1 in the centred frame of rectangle 2: centre, cosine and sine.
template <typename T>
struct Relative {
  T x, y, cos, sin;
};

// Derivatives wrt cx, cy, w, h (per pixel) and angle (per degree).
template <typename T>
struct BoxGrad {
  T cx, cy, w, h, angle_deg;
};

// Length and first moment (about the edge's midpoint) of a part of an edge.
template <typename T>
struct EdgePart {
  T length, moment;
};

template <typename T>
TCM_D2_HD T smaller(T a, T b) {
  return a < b ? a : b;
}

template <typename T>
TCM_D2_HD T larger(T a, T b) {
  return a < b ? b : a;
}

template <typename T>
TCM_D2_HD T clamped(T value, T low, T high) {
  return value < low ? low : (value > high ? high : value);
}

template <typename T>
TCM_D2_HD bool is_finite(T value) {
  return value - value == T(0);
}

// Cosine and sine of degrees, exact at multiples of 90.
template <typename T>
TCM_D2_HD void cos_sin_deg(T angle_deg, T* cos_out, T* sin_out) {
  const T reduced = std::fmod(angle_deg, T(360));
  const T quarter = std::rint(reduced / T(90));
  const T rest =
      (reduced - T(90) * quarter) * T(3.14159265358979323846 / 180.0);
  const T c = std::cos(rest);
  const T s = std::sin(rest);
  const int k = static_cast<int>(quarter) & 3;  // two's complement: -1 -> 3
  const T cos_odd = (k & 1) ? -s : c;
  const T sin_odd = (k & 1) ? c : s;
  *cos_out = (k & 2) ? -cos_odd : cos_odd;
  *sin_out = (k & 2) ? -sin_odd : sin_odd;
}

template <typename T, typename Scalar>
TCM_D2_HD Rect<T> make_rect(const Scalar* box) {
  const T cx = static_cast<T>(box[0]);
  const T cy = static_cast<T>(box[1]);
  const T w = static_cast<T>(box[2]);
  const T h = static_cast<T>(box[3]);
  const T angle_deg = static_cast<T>(box[4]);
  const T area = w * h;
  Rect<T> rect = {0, 0, 0, 0, 0, 0, 0, 0};
  const bool valid = w > T(0) && h > T(0) && area > T(0) && is_finite(cx) &&
                     is_finite(cy) && is_finite(angle_deg) && is_finite(area);
  if (!valid) {
    return rect;
  }
  rect.cx = cx;
  rect.cy = cy;
  rect.half_w = w / 2;
  rect.half_h = h / 2;
  rect.area = area;
  rect.radius =
      std::sqrt(rect.half_w * rect.half_w + rect.half_h * rect.half_h);
  cos_sin_deg(angle_deg, &rect.cos, &rect.sin);
  return rect;
}

// Whether the circumscribed circles meet; false for boxes without an area.
template <typename T>
TCM_D2_HD bool may_overlap(const Rect<T>& a, const Rect<T>& b) {
  const T dx = a.cx - b.cx;
  const T dy = a.cy - b.cy;
  const T reach = a.radius + b.radius;
  return dx * dx + dy * dy <= reach * reach && a.area > T(0) && b.area > T(0);
}

template <typename T>
TCM_D2_HD bool is_same(const Rect<T>& a, const Rect<T>& b) {
  return a.cx == b.cx && a.cy == b.cy && a.half_w == b.half_w &&
         a.half_h == b.half_h && a.cos == b.cos && a.sin == b.sin;
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
TCM_D2_HD bool comes_first(const Rect<T>& a, const Rect<T>& b) {
  if (a.area != b.area) return a.area > b.area;
  if (a.cx != b.cx) return a.cx > b.cx;
  if (a.cy != b.cy) return a.cy > b.cy;
  if (a.half_w != b.half_w) return a.half_w > b.half_w;
  if (a.cos != b.cos) return a.cos > b.cos;
  return a.sin >= b.sin;
}

// Integral of clamp(y, -b, b) dx along an edge, over |x| <= a.
template <typename T>
TCM_D2_HD T strip_integral(T x0, T y0, T x1, T y1, T a, T b) {
  const bool forward = x0 <= x1;
  const T xl = forward ? x0 : x1;
  const T yl = forward ? y0 : y1;
  const T xr = forward ? x1 : x0;
  const T yr = forward ? y1 : y0;
  const T cut_l = clamped(xl, -a, a);
  const T cut_r = clamped(xr, -a, a);
  const T width = cut_r - cut_l;
  if (!(width > T(0))) {
    return T(0);
  }
  const T slope = (yr - yl) / (xr - xl);
  // Each end from its own corner: an edge that isn't cut keeps its ends
  // exactly.
  const T ya = yl + (cut_l - xl) * slope;
  const T yb = yr + (cut_r - xr) * slope;
  const T low = smaller(ya, yb);
  const T high = larger(ya, yb);
  const T rise = high - low;
  T below = T(0);  // share of the width where y < -b, and where y > b
  T above = T(0);
  if (rise > T(0)) {
    below = clamped((-b - low) / rise, T(0), T(1));
    above = clamped((high - b) / rise, T(0), T(1));
  }
  const T middle = larger(T(1) - below - above, T(0));
  const T mean = b * (above - below) +
                 middle * (clamped(low, -b, b) + clamped(high, -b, b)) / 2;
  return (forward ? width : -width) * mean;
}

// Whether a line along one of the four axes separates the rectangles (touching
// counts). Without it, rounding would leave 1e-16 of area to disjoint boxes.
template <typename T>
TCM_D2_HD bool are_separated(const Relative<T>& frame, const Rect<T>& subject,
                             const Rect<T>& window) {
  const T c = std::fabs(frame.cos);
  const T s = std::fabs(frame.sin);
  return std::fabs(frame.x) >=
             window.half_w + (subject.half_w * c + subject.half_h * s) ||
         std::fabs(frame.y) >=
             window.half_h + (subject.half_w * s + subject.half_h * c) ||
         std::fabs(frame.x * frame.cos - frame.y * frame.sin) >=
             subject.half_w + (window.half_w * c + window.half_h * s) ||
         std::fabs(frame.x * frame.sin + frame.y * frame.cos) >=
             subject.half_h + (window.half_w * s + window.half_h * c);
}

// Area common to both rectangles; in [0, smaller area], never NaN.
template <typename T>
TCM_D2_HD T intersection_area(const Rect<T>& rect1, const Rect<T>& rect2) {
  if (!may_overlap(rect1, rect2)) {
    return T(0);
  }
  if (is_same(rect1, rect2)) {
    return rect1.area;
  }
  const bool in_order = comes_first(rect1, rect2);
  const Rect<T>& subject = in_order ? rect1 : rect2;
  const Rect<T>& window = in_order ? rect2 : rect1;
  const Relative<T> frame = relative_to(subject, window);
  if (are_separated(frame, subject, window)) {
    return T(0);
  }
  const T ux = frame.cos * subject.half_w;
  const T uy = -frame.sin * subject.half_w;
  const T vx = frame.sin * subject.half_h;
  const T vy = frame.cos * subject.half_h;
  const T x[4] = {frame.x + (ux + vx), frame.x + (ux - vx),
                  frame.x + (-ux - vx), frame.x + (vx - ux)};
  const T y[4] = {frame.y + (uy + vy), frame.y + (uy - vy),
                  frame.y + (-uy - vy), frame.y + (vy - uy)};
  T sum = T(0);
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (int i = 0; i < 4; ++i) {
    const int j = (i + 1) & 3;
    sum += strip_integral(x[i], y[i], x[j], y[j], window.half_w, window.half_h);
  }
  const T area = std::fabs(sum);
  return area > T(0) ? smaller(area, window.area) : T(0);
}

// Intersection over the union, or over the area of rect1; in [0, 1].
template <typename T>
TCM_D2_HD T overlap(const Rect<T>& rect1, const Rect<T>& rect2, bool iof) {
  const T common = intersection_area(rect1, rect2);
  if (!(common > T(0))) {
    return T(0);
  }
  const T whole = iof ? rect1.area : rect1.area + rect2.area - common;
  return smaller(common / whole, T(1));
}

// Narrows [low, high] to where |position + s * direction| <= half_size.
template <typename T>
TCM_D2_HD void clip_to_slab(T position, T direction, T half_size, T* low,
                            T* high) {
  if (direction == T(0)) {
    if (std::fabs(position) > half_size) {
      *high = *low;
    }
    return;
  }
  const T s0 = (-half_size - position) / direction;
  const T s1 = (half_size - position) / direction;
  *low = larger(*low, smaller(s0, s1));
  *high = smaller(*high, larger(s0, s1));
}

// The part inside the window of the edge (x, y) + s * (ex, ey), |s| <=
// half_length. An edge on the window's border counts half, which is the mean of
// the derivatives on both sides; for identical boxes all gradients cancel.
template <typename T>
TCM_D2_HD EdgePart<T> part_inside(T x, T y, T ex, T ey, T half_length,
                                  const Rect<T>& window) {
  const T tolerance = 64 * std::numeric_limits<T>::epsilon() *
                      (half_length + window.half_w + window.half_h);
  const bool on_x_border =
      std::fabs(std::fabs(x) - window.half_w) + half_length * std::fabs(ex) <=
      tolerance;
  const bool on_y_border =
      std::fabs(std::fabs(y) - window.half_h) + half_length * std::fabs(ey) <=
      tolerance;
  T low = -half_length;
  T high = half_length;
  if (!on_x_border) clip_to_slab(x, ex, window.half_w, &low, &high);
  if (!on_y_border) clip_to_slab(y, ey, window.half_h, &low, &high);
  if (!(high > low)) {
    return {T(0), T(0)};
  }
  const T length = (on_x_border || on_y_border) ? (high - low) / 2 : high - low;
  return {length, length * (low + high) / 2};
}

// Derivatives of the common area wrt the subject's parameters.
template <typename T>
TCM_D2_HD BoxGrad<T> intersection_grad(const Rect<T>& subject,
                                       const Rect<T>& window) {
  const Relative<T> frame = relative_to(subject, window);
  BoxGrad<T> grad = {0, 0, 0, 0, 0};
  T angle_rad = T(0);
  for (int k = 0; k < 2; ++k) {
    const T sign = k == 0 ? T(1) : T(-1);
    // The edge across the width axis, outward normal sign * U, running along V.
    const EdgePart<T> across_u =
        part_inside(frame.x + sign * frame.cos * subject.half_w,
                    frame.y - sign * frame.sin * subject.half_w, frame.sin,
                    frame.cos, subject.half_h, window);
    grad.cx += sign * across_u.length * subject.cos;
    grad.cy -= sign * across_u.length * subject.sin;
    grad.w += across_u.length / 2;
    angle_rad += sign * across_u.moment;
    // The edge across the height axis, outward normal sign * V, running along
    // U.
    const EdgePart<T> across_v =
        part_inside(frame.x + sign * frame.sin * subject.half_h,
                    frame.y + sign * frame.cos * subject.half_h, frame.cos,
                    -frame.sin, subject.half_w, window);
    grad.cx += sign * across_v.length * subject.sin;
    grad.cy += sign * across_v.length * subject.cos;
    grad.h += across_v.length / 2;
    angle_rad -= sign * across_v.moment;
  }
  grad.angle_deg = angle_rad * T(3.14159265358979323846 / 180.0);
  return grad;
}

// A gradient in the dtype of the boxes: finite, whatever the size of the boxes.
template <typename Scalar, typename T>
TCM_D2_HD Scalar finite_cast(T value) {
  if (!is_finite(value)) {
    return Scalar(0);
  }
  const T limit = static_cast<T>(std::numeric_limits<Scalar>::max());
  return static_cast<Scalar>(clamped(value, -limit, limit));
}

// Writes the derivative of scale * IoU wrt both boxes (5 numbers each).
template <typename T, typename Scalar>
TCM_D2_HD void overlap_grad(const Rect<T>& rect1, const Rect<T>& rect2, T scale,
                            Scalar* grad1, Scalar* grad2) {
  const T common = intersection_area(rect1, rect2);
  const T whole = rect1.area + rect2.area - common;
  const T iou = common > T(0) ? smaller(common / whole, T(1)) : T(0);
  for (int side = 0; side < 2; ++side) {
    const Rect<T>& subject = side == 0 ? rect1 : rect2;
    const Rect<T>& window = side == 0 ? rect2 : rect1;
    Scalar* out = side == 0 ? grad1 : grad2;
    if (!(common > T(0))) {
      for (int i = 0; i < 5; ++i) out[i] = Scalar(0);
      continue;
    }
    // d(I / A) with A = A1 + A2 - I is ((1 + iou) dI - iou dA_subject) / A.
    const BoxGrad<T> grad = intersection_grad(subject, window);
    const T rise = 1 + iou;
    out[0] = finite_cast<Scalar>(scale * (rise * grad.cx) / whole);
    out[1] = finite_cast<Scalar>(scale * (rise * grad.cy) / whole);
    out[2] = finite_cast<Scalar>(
        scale * (rise * grad.w - iou * 2 * subject.half_h) / whole);
    out[3] = finite_cast<Scalar>(
        scale * (rise * grad.h - iou * 2 * subject.half_w) / whole);
    out[4] = finite_cast<Scalar>(scale * (rise * grad.angle_deg) / whole);
  }
}

}  // namespace tcm_d2
