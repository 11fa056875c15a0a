// GIoU and DIoU of two rotated boxes, with their derivatives. For host and
// device.
//
// GIoU = I / U - (C - U) / C, C the area of the convex hull of both boxes:
// Rezatofighi et al., CVPR 2019 (arXiv 1902.09630), algorithm 1, whose C is the
// smallest enclosing convex shape.
//
// DIoU = I / U - d^2 / c^2, d the distance of the centres: Zheng et al., AAAI
// 2020 (arXiv 1911.08287). There c is the diagonal of the smallest enclosing
// upright box; here it is the diameter of the hull, which doesn't depend on the
// axes and, unlike the diagonal of the smallest rotated rectangle, doesn't
// jump.

#pragma once

#include "enclosing.h"
#include "rotated_gradient.h"

namespace tcm_d2 {

enum class Penalty { kHullArea, kCentreDistance };

// The parts of both measures; nothing is to be derived where `is_finite` fails.
template <typename T>
struct EnclosedPair {
  Outline<T> box1, box2;
  Rect<T> rect1, rect2;
  CornerPair<T> corners;
  T common, whole;  // areas of the intersection and of the union
  bool is_finite;
};

template <typename T, typename Scalar>
TCM_D2_HD EnclosedPair<T> make_enclosed_pair(const Scalar* data1,
                                             const Scalar* data2) {
  EnclosedPair<T> pair;
  pair.box1 = make_outline<T>(data1);
  pair.box2 = make_outline<T>(data2);
  pair.is_finite = pair.box1.is_finite && pair.box2.is_finite;
  if (!pair.is_finite) {
    return pair;
  }
  pair.rect1 = make_rect<T>(data1);
  pair.rect2 = make_rect<T>(data2);
  pair.corners = make_corners(pair.box1, pair.box2);
  pair.common = intersection_area(pair.rect1, pair.rect2);
  // Boxes that are zero to make_rect may have a finite area all the same.
  pair.whole =
      pair.box1.w * pair.box1.h + pair.box2.w * pair.box2.h - pair.common;
  return pair;
}

template <typename T>
TCM_D2_HD T squared_centre_distance(const EnclosedPair<T>& pair) {
  const T dx = pair.box1.cx - pair.box2.cx;
  const T dy = pair.box1.cy - pair.box2.cy;
  return dx * dx + dy * dy;
}

// The measure in [-1, 1]; -1 for numbers that are not finite, or too large.
template <Penalty penalty, typename T, typename Scalar>
TCM_D2_HD T enclosed_iou(const Scalar* data1, const Scalar* data2) {
  const EnclosedPair<T> pair = make_enclosed_pair<T>(data1, data2);
  if (!pair.is_finite) {
    return T(-1);
  }
  const T iou =
      pair.common > T(0) ? smaller(pair.common / pair.whole, T(1)) : T(0);
  T share = T(0);
  if (penalty == Penalty::kHullArea) {
    const T hull =
        larger(hull_area(pair.corners, static_cast<CornerGrad<T>*>(nullptr)),
               pair.whole);
    share = hull > T(0) ? (hull - pair.whole) / hull : T(0);
  } else {
    const T diameter2 =
        squared_diameter(pair.corners, pair.box1, pair.box2).value;
    share = diameter2 > T(0) ? squared_centre_distance(pair) / diameter2 : T(0);
  }
  const T value = iou - share;
  return value >= T(-1) ? value : T(-1);  // NaN is -1, too
}

// Derivative of the penalty wrt one box.
template <typename T>
TCM_D2_HD BoxGrad<T> hull_penalty_grad(T hull, const BoxGrad<T>& hull_grad,
                                       T whole, const BoxGrad<T>& whole_grad) {
  // (C - U) / C = 1 - U / C
  const T share = whole / hull;
  return {(share * hull_grad.cx - whole_grad.cx) / hull,
          (share * hull_grad.cy - whole_grad.cy) / hull,
          (share * hull_grad.w - whole_grad.w) / hull,
          (share * hull_grad.h - whole_grad.h) / hull,
          (share * hull_grad.angle_deg - whole_grad.angle_deg) / hull};
}

template <typename T>
TCM_D2_HD BoxGrad<T> distance_penalty_grad(T dx, T dy, T diameter2,
                                           const BoxGrad<T>& diameter2_grad) {
  const T share = (dx * dx + dy * dy) / diameter2;
  return {(2 * dx - share * diameter2_grad.cx) / diameter2,
          (2 * dy - share * diameter2_grad.cy) / diameter2,
          -share * diameter2_grad.w / diameter2,
          -share * diameter2_grad.h / diameter2,
          -share * diameter2_grad.angle_deg / diameter2};
}

// Derivative of the intersection wrt the subject; zero where there is none.
template <typename T>
TCM_D2_HD BoxGrad<T> common_grad(const EnclosedPair<T>& pair, bool of_first) {
  if (!(pair.common > T(0))) {
    return {0, 0, 0, 0, 0};
  }
  return of_first ? intersection_grad(pair.rect1, pair.rect2)
                  : intersection_grad(pair.rect2, pair.rect1);
}

// Writes scale times the derivative of the measure wrt one box (5 numbers).
template <typename T, typename Scalar>
TCM_D2_HD void write_enclosed_grad(const EnclosedPair<T>& pair,
                                   const BoxGrad<T>& common,
                                   const BoxGrad<T>& whole,
                                   const BoxGrad<T>& penalty, T scale,
                                   Scalar* out) {
  const T area = pair.whole;
  const T iou = pair.common > T(0) ? smaller(pair.common / area, T(1)) : T(0);
  const T divisor = area > T(0) ? area : T(1);
  const T values[5] = {
      (common.cx - iou * whole.cx) / divisor - penalty.cx,
      (common.cy - iou * whole.cy) / divisor - penalty.cy,
      (common.w - iou * whole.w) / divisor - penalty.w,
      (common.h - iou * whole.h) / divisor - penalty.h,
      (common.angle_deg - iou * whole.angle_deg) / divisor - penalty.angle_deg};
  for (int i = 0; i < 5; ++i) {
    out[i] = finite_cast<Scalar>(scale * values[i]);
  }
}

// Writes the derivative of scale * measure wrt both boxes (5 numbers each).
template <Penalty penalty, typename T, typename Scalar>
TCM_D2_HD void enclosed_iou_grad(const Scalar* data1, const Scalar* data2,
                                 T scale, Scalar* grad1, Scalar* grad2) {
  const EnclosedPair<T> pair = make_enclosed_pair<T>(data1, data2);
  CornerGrad<T> hull_corners;
  Derived<T> enclosure = {T(0), {0, 0, 0, 0, 0}, {0, 0, 0, 0, 0}};
  if (pair.is_finite && penalty == Penalty::kHullArea) {
    const T hull = hull_area(pair.corners, &hull_corners);
    enclosure = {larger(hull, pair.whole),
                 chain_corners(hull_corners, pair.corners, 0, pair.box1),
                 chain_corners(hull_corners, pair.corners, 4, pair.box2)};
  } else if (pair.is_finite) {
    enclosure = squared_diameter(pair.corners, pair.box1, pair.box2);
  }
  for (int side = 0; side < 2; ++side) {
    const Outline<T>& box = side == 0 ? pair.box1 : pair.box2;
    const Outline<T>& other = side == 0 ? pair.box2 : pair.box1;
    const BoxGrad<T>& enclosure_grad =
        side == 0 ? enclosure.grad1 : enclosure.grad2;
    Scalar* out = side == 0 ? grad1 : grad2;
    if (!(enclosure.value > T(0) && is_finite(enclosure.value))) {
      for (int i = 0; i < 5; ++i) out[i] = Scalar(0);
      continue;
    }
    const BoxGrad<T> common = common_grad(pair, side == 0);
    const BoxGrad<T> whole = {
        -common.cx, -common.cy, (box.w_grows ? box.h : T(0)) - common.w,
        (box.h_grows ? box.w : T(0)) - common.h, -common.angle_deg};
    const BoxGrad<T> share =
        penalty == Penalty::kHullArea
            ? hull_penalty_grad(enclosure.value, enclosure_grad, pair.whole,
                                whole)
            : distance_penalty_grad(box.cx - other.cx, box.cy - other.cy,
                                    enclosure.value, enclosure_grad);
    write_enclosed_grad(pair, common, whole, share, scale, out);
  }
}

}  // namespace tcm_d2
