// The kernels of quadrilaterals. Quads are contiguous rows of four corners x,
// y, Scalar is float or double, and results lie in memory of the caller, at the
// same place. Defined in *_cpu.cpp and *_cuda.cu.

#pragma once

#include <cstdint>
#include <vector>

#include "../place.h"

namespace tcm_d2 {

// iou (num1, num2).
template <typename Scalar>
void quad_iou(Cpu, const Scalar* quads1, int64_t num1, const Scalar* quads2,
              int64_t num2, Scalar* iou);
template <typename Scalar>
void quad_iou(Cuda, const Scalar* quads1, int64_t num1, const Scalar* quads2,
              int64_t num2, Scalar* iou);

// iou (num) of aligned pairs.
template <typename Scalar>
void paired_quad_iou(Cpu, const Scalar* quads1, const Scalar* quads2,
                     int64_t num, Scalar* iou);
template <typename Scalar>
void paired_quad_iou(Cuda, const Scalar* quads1, const Scalar* quads2,
                     int64_t num, Scalar* iou);

// boxes (num, 5).
template <typename Scalar>
void minimum_area_boxes(Cpu, const Scalar* quads, int64_t num, Scalar* boxes);
template <typename Scalar>
void minimum_area_boxes(Cuda, const Scalar* quads, int64_t num, Scalar* boxes);

struct QuadPair {
  int64_t first, second;
  double iou;
};

// Pairs of quads of equal groups whose IoU is above the least one, ordered by
// the first, then by the second; the lists in sequence.
std::vector<std::vector<QuadPair>> overlapping_quads(
    Cpu, const double* quads1, const int64_t* groups1, int64_t num1,
    const double* quads2, const int64_t* groups2, int64_t num2, double min_iou);

// Flags of the quads, best score first, that a better one of their group
// suppresses.
std::vector<uint8_t> suppressed_quads(Cpu, const double* quads,
                                      const int64_t* groups, int64_t num,
                                      double iou_threshold);

}  // namespace tcm_d2
