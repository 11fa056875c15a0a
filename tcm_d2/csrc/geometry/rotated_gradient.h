// Gradient of the IoU of rotated rectangles, for host and device.
//
// When an edge moves, the common area grows by the integral of the edge's
// normal speed over the part of it inside the other rectangle, so the length
// and first moment of that part, per edge, give all ten derivatives.

#pragma once

#include <limits>

#include "rotated.h"

namespace tcm_d2 {

// Derivatives wrt cx, cy, w, h (per pixel) and angle (per degree).
template <typename T>
struct BoxGrad {
  T cx, cy, w, h, angle_deg;
};

template <typename T>
struct PairGrad {
  BoxGrad<T> first, second;
};

// Length and first moment (about the edge's midpoint) of a part of an edge.
template <typename T>
struct EdgePart {
  T length, moment;
};

// Narrows [low, high] to where |position + s * direction| <= half_size, except
// where the edge lies on the border of that slab.
template <typename T, typename Mask>
TCM_D2_HD void clip_to_slab(T position, T direction, T inverse, T half_size,
                            Mask on_border, T* low, T* high) {
  const T infinity = T(std::numeric_limits<double>::infinity());
  const T s0 = (-half_size - position) * inverse;
  const T s1 = (half_size - position) * inverse;
  const auto parallel = direction == T(0);
  const T side = select(absolute(position) > half_size, infinity, -infinity);
  const T enter = select(parallel, side, smaller(s0, s1));
  const T leave = select(parallel, -side, larger(s0, s1));
  *low = select(on_border, *low, larger(*low, enter));
  *high = select(on_border, *high, smaller(*high, leave));
}

// The part inside the window of the edge (x, y) + s * (ex, ey), |s| <=
// half_length. An edge on the window's border counts half, which is the mean of
// the derivatives on both sides; for identical boxes all gradients cancel.
template <typename T>
TCM_D2_HD EdgePart<T> part_inside(T x, T y, T ex, T ey, T inverse_ex,
                                  T inverse_ey, T half_length,
                                  const Rect<T>& window) {
  const T tolerance = T(64 * std::numeric_limits<double>::epsilon()) *
                      (half_length + window.half_w + window.half_h);
  const auto on_x_border =
      absolute(absolute(x) - window.half_w) + half_length * absolute(ex) <=
      tolerance;
  const auto on_y_border =
      absolute(absolute(y) - window.half_h) + half_length * absolute(ey) <=
      tolerance;
  T low = -half_length;
  T high = half_length;
  clip_to_slab(x, ex, inverse_ex, window.half_w, on_x_border, &low, &high);
  clip_to_slab(y, ey, inverse_ey, window.half_h, on_y_border, &low, &high);
  const T share = select(on_x_border | on_y_border, T(0.5), T(1));
  const T length = select(high > low, share * (high - low), T(0));
  const T middle = select(high > low, (low + high) * T(0.5), T(0));
  return {length, length * middle};
}

// Derivatives of the common area wrt the subject's parameters.
template <typename T>
TCM_D2_HD BoxGrad<T> intersection_grad(const Rect<T>& subject,
                                       const Rect<T>& window) {
  const Relative<T> frame = relative_to(subject, window);
  const T inverse_cos = T(1) / frame.cos;
  const T inverse_sin = T(1) / frame.sin;
  // Edges across the width axis, outward normals U and -U, running along V;
  // then those across the height axis, outward normals V and -V, along U.
  const T ux = frame.cos * subject.half_w, uy = -frame.sin * subject.half_w;
  const T vx = frame.sin * subject.half_h, vy = frame.cos * subject.half_h;
  const EdgePart<T> u_plus =
      part_inside(frame.x + ux, frame.y + uy, frame.sin, frame.cos, inverse_sin,
                  inverse_cos, subject.half_h, window);
  const EdgePart<T> u_minus =
      part_inside(frame.x - ux, frame.y - uy, frame.sin, frame.cos, inverse_sin,
                  inverse_cos, subject.half_h, window);
  const EdgePart<T> v_plus =
      part_inside(frame.x + vx, frame.y + vy, frame.cos, -frame.sin,
                  inverse_cos, -inverse_sin, subject.half_w, window);
  const EdgePart<T> v_minus =
      part_inside(frame.x - vx, frame.y - vy, frame.cos, -frame.sin,
                  inverse_cos, -inverse_sin, subject.half_w, window);
  const T along_u = u_plus.length - u_minus.length;
  const T along_v = v_plus.length - v_minus.length;
  const T turning =
      (u_plus.moment - u_minus.moment) - (v_plus.moment - v_minus.moment);
  return {along_u * subject.cos + along_v * subject.sin,
          along_v * subject.cos - along_u * subject.sin,
          (u_plus.length + u_minus.length) * T(0.5),
          (v_plus.length + v_minus.length) * T(0.5),
          turning * T(3.14159265358979323846 / 180.0)};
}

// Derivative of scale * IoU wrt one box; zero without a common area.
template <typename T>
TCM_D2_HD BoxGrad<T> overlap_grad_of(const Rect<T>& subject,
                                     const Rect<T>& window, T common, T scale) {
  // d(I / A) with A = A1 + A2 - I is ((1 + iou) dI - iou dA_subject) / A.
  const T whole = subject.area + window.area - common;
  const T iou = smaller(common / whole, T(1));
  const T rise = T(1) + iou;
  const BoxGrad<T> grad = intersection_grad(subject, window);
  const T dw = rise * grad.w - iou * (subject.half_h + subject.half_h);
  const T dh = rise * grad.h - iou * (subject.half_w + subject.half_w);
  const auto some = common > T(0);
  return {select(some, scale * (rise * grad.cx) / whole, T(0)),
          select(some, scale * (rise * grad.cy) / whole, T(0)),
          select(some, scale * dw / whole, T(0)),
          select(some, scale * dh / whole, T(0)),
          select(some, scale * (rise * grad.angle_deg) / whole, T(0))};
}

// Derivatives of scale * IoU wrt both boxes.
template <typename T>
TCM_D2_HD PairGrad<T> overlap_grad(const Rect<T>& rect1, const Rect<T>& rect2,
                                   T scale) {
  const T common = intersection_area(rect1, rect2);
  return {overlap_grad_of(rect1, rect2, common, scale),
          overlap_grad_of(rect2, rect1, common, scale)};
}

// A gradient in the dtype of the boxes: finite, whatever the size of the boxes.
template <typename Scalar, typename T>
TCM_D2_HD Scalar finite_cast(T value) {
  if (!is_finite(value)) {
    return Scalar(0);
  }
  const T limit = static_cast<T>(std::numeric_limits<Scalar>::max());
  return static_cast<Scalar>(value < -limit ? -limit
                                            : (value > limit ? limit : value));
}

template <typename Scalar>
TCM_D2_HD void store_grad(const BoxGrad<double>& grad, Scalar* out) {
  out[0] = finite_cast<Scalar>(grad.cx);
  out[1] = finite_cast<Scalar>(grad.cy);
  out[2] = finite_cast<Scalar>(grad.w);
  out[3] = finite_cast<Scalar>(grad.h);
  out[4] = finite_cast<Scalar>(grad.angle_deg);
}

}  // namespace tcm_d2
