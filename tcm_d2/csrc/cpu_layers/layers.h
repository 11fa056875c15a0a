// The kernels of convolutional layers on the CPU. Maps are channels last, T is
// float or the bits of bfloat16, and results lie in memory of the caller.
// Defined in *_cpu.cpp.

#pragma once

#include <cstdint>

#include "conv_tiles.h"

namespace tcm_d2 {

// Maps of type T, factors of type S: float or the bits of bfloat16.
template <typename T, typename S>
struct Linear {
  const T* x;  // (rows, depth)
  int64_t rows;
  int64_t depth;
  const S* packed;  // (panels, packed_depth, kPanel)
  int64_t packed_depth;
  int64_t panels;
  const float* bias;  // (panels * kPanel) or null
  const T* residual;  // (rows, columns) or null
  bool relu;
  T* out;  // (rows, columns)
  int64_t columns;
};

template <typename T, typename S>
void run_linear(const Linear<T, S>& job);

template <typename T>
struct Winograd {
  TiledMaps<const T> x;
  const float* packed;  // (panels, kTilePoints, channels, kPanel)
  int64_t panels;
  const float* bias;  // (panels * kPanel) or null
  bool relu;
  TiledMaps<T> out;
  const T* zeros;  // (channels of x)
};

template <typename T>
void run_winograd(const Winograd<T>& job);

// packed (panels, kTilePoints, inputs, kPanel) from kernels (outputs, inputs,
// 3, 3), or from kernels (inputs, outputs, 3, 3) turned by half a turn.
void pack_conv3x3(const float* kernels, int64_t outputs, int64_t inputs,
                  bool transposed, float* packed);

// kernel_grad (3, 3, channels of x, channels of grad).
void conv3x3_weight_grad(const TiledMaps<const float>& x,
                         const TiledMaps<const float>& grad,
                         float* kernel_grad);

// Normalizes x (cells, channels) of one image; T is float or c10::BFloat16.
template <typename T>
struct GroupNorm {
  const T* x;
  int64_t cells;
  int64_t channels;
  int64_t groups;
  const float* weight;  // (channels)
  const float* bias;
  double eps;
  bool relu;
  T* out;
};

template <typename T>
void run_group_norm(const GroupNorm<T>& job);

// out (images, columns, rows) from in (images, rows, columns).
void transpose_maps(const float* in, int64_t images, int64_t rows,
                    int64_t columns, float* out);

}  // namespace tcm_d2
