// The loops of conv_kernels.h over a type of vectors V. Included once per
// instruction set, after the pragma that chooses it; everything has internal
// linkage, so that no other file calls what its processor may lack.

#pragma once

#include <cstdint>
#include <cstring>

#include "conv_kernels.h"

namespace tcm_d2 {
namespace {

template <class V>
inline V load_as(const float* values) {
  return V::load(values);
}
template <class V>
inline V load_as(const uint16_t* values) {
  return V::load_bfloat16(values);
}
template <class V>
inline void store_as(V value, float* out) {
  value.store(out);
}
template <class V>
inline void store_as(V value, uint16_t* out) {
  value.store_bfloat16(out);
}

inline float widen(float value) { return value; }
inline float widen(uint16_t value) {
  const uint32_t bits = uint32_t(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}
inline void narrow(float value, float* out) { *out = value; }
inline void narrow(float value, uint16_t* out) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (value != value) {
    *out = 0x7fc0;
  } else {
    *out = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}

// Products of plain floats, one for each lane.
template <class V>
struct FloatProduct {
  using Vector = V;
  static constexpr int kStride = kRowStride;
  static V add(V a, V b, V sum) { return fused(a, b, sum); }
};

// Values are 32 bits, whatever they hold; depth counts these. Transposed, a
// has a row for each depth.
//
// Sums run over kChain values and are then added up: rounding grows with the
// root of the length of a sum.
constexpr int64_t kChain = 64;

template <class Product, int kRows, bool kTransposed>
void multiply_rows(const float* a, const float* b, int64_t depth,
                   bool accumulate, float* c, int64_t c_stride) {
  using V = typename Product::Vector;
  constexpr int kCols = V::kCols;
  for (int start = 0; start < kPanel; start += kCols * V::kLanes) {
    const float* row = b + start;
    int64_t k = 0;
    do {
      const int64_t end = depth - k < kChain ? depth : k + kChain;
      const bool is_first = k == 0 && !accumulate;
      V sums[kRows][kCols];
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kCols; ++j) sums[i][j] = V::all(0.0f);
      }
      for (; k < end; ++k, row += kPanel) {
        V columns[kCols];
#pragma GCC unroll 4
        for (int j = 0; j < kCols; ++j) {
          columns[j] = V::load(row + j * V::kLanes);
        }
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) {
          const V value = V::all(kTransposed ? a[k * Product::kStride + i]
                                             : a[i * Product::kStride + k]);
#pragma GCC unroll 4
          for (int j = 0; j < kCols; ++j) {
            sums[i][j] = Product::add(value, columns[j], sums[i][j]);
          }
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kCols; ++j) {
          float* out = c + i * c_stride + start + j * V::kLanes;
          if (!is_first) sums[i][j] = sums[i][j] + V::load(out);
          sums[i][j].store(out);
        }
      }
    } while (k < depth);
  }
}

template <class Product, int kRows, bool kTransposed = false>
void multiply_up_to(const float* a, int rows, const float* b, int64_t depth,
                    bool accumulate, float* c, int64_t c_stride) {
  if (rows == kRows) {
    multiply_rows<Product, kRows, kTransposed>(a, b, depth, accumulate, c,
                                               c_stride);
  } else if constexpr (kRows > 1) {
    multiply_up_to<Product, kRows - 1, kTransposed>(a, rows, b, depth,
                                                    accumulate, c, c_stride);
  }
}

template <class V>
void multiply(const float* a, int rows, const float* b, int64_t depth,
              bool accumulate, float* c, int64_t c_stride) {
  multiply_up_to<FloatProduct<V>, V::kRows>(a, rows, b, depth, accumulate, c,
                                            c_stride);
}

template <class V>
void multiply_transposed(const float* a, int rows, const float* b,
                         int64_t depth, bool accumulate, float* c,
                         int64_t c_stride) {
  multiply_up_to<FloatProduct<V>, V::kRows, true>(a, rows, b, depth, accumulate,
                                                  c, c_stride);
}

template <class V, typename T>
void load_row(const T* row, int64_t count, float* slab) {
  int64_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) {
    load_as<V>(row + i).store(slab + i);
  }
  for (; i < count; ++i) slab[i] = widen(row[i]);
}

template <class V, typename T>
void store_row(const float* values, const float* bias, const T* residual,
               bool relu, int64_t count, T* out) {
  int64_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) {
    V value = V::load(values + i);
    if (bias != nullptr) value = value + V::load(bias + i);
    if (residual != nullptr) value = value + load_as<V>(residual + i);
    if (relu) value = positive(value);
    store_as(value, out + i);
  }
  for (; i < count; ++i) {
    float value = values[i];
    if (bias != nullptr) value += bias[i];
    if (residual != nullptr) value += widen(residual[i]);
    // keeps NaN, as torch does
    if (relu && value < 0.0f) value = 0.0f;
    narrow(value, out + i);
  }
}

// Winograd's F(4, 3) (Lavin and Gray, arXiv 1509.09308, section 4.1) by the
// Toom-Cook construction at the points 0, +-kNear, +-kFar and infinity. Their
// usual choice of 1 and 2 doubles the error; with these it is about that of a
// plain sum. All coefficients are exact in float32.

template <class V>
inline void to_points(const V in[kTileIn], V out[kTileIn]) {
  const V product = V::all(kNear2 * kFar2);
  const V sum = V::all(-(kNear2 + kFar2));
  const V even_near = fused(V::all(-kFar2), in[2], in[4]);
  const V odd_near = fused(V::all(-kFar2), in[1], in[3]);
  const V even_far = fused(V::all(-kNear2), in[2], in[4]);
  const V odd_far = fused(V::all(-kNear2), in[1], in[3]);
  out[0] = fused(product, in[0], fused(sum, in[2], in[4]));
  out[1] = fused(V::all(kNear), odd_near, even_near);
  out[2] = fused(V::all(-kNear), odd_near, even_near);
  out[3] = fused(V::all(kFar), odd_far, even_far);
  out[4] = fused(V::all(-kFar), odd_far, even_far);
  out[5] = fused(product, in[1], fused(sum, in[3], in[5]));
}

template <class V>
inline void from_points(const V in[kTileIn], V out[kTileOut]) {
  const V even_near = in[1] + in[2];
  const V odd_near = in[1] - in[2];
  const V even_far = in[3] + in[4];
  const V odd_far = in[3] - in[4];
  out[0] = in[0] + (even_near + even_far);
  out[1] = fused(V::all(kNear), odd_near, V::all(kFar) * odd_far);
  out[2] = fused(V::all(kNear2), even_near, V::all(kFar2) * even_far);
  out[3] = fused(V::all(kNear2 * kNear), odd_near,
                 fused(V::all(kFar2 * kFar), odd_far, in[5]));
}

template <class V, typename T>
void load_tile(const T* const* points, int64_t count, float* out,
               int64_t point_stride) {
  for (int64_t c = 0; c < count; c += V::kLanes) {
    V columns[kTileIn][kTileIn];  // transformed down, by column
#pragma GCC unroll 6
    for (int x = 0; x < kTileIn; ++x) {
      V column[kTileIn];
#pragma GCC unroll 6
      for (int y = 0; y < kTileIn; ++y) {
        column[y] = load_as<V>(points[y * kTileIn + x] + c);
      }
      to_points(column, columns[x]);
    }
#pragma GCC unroll 6
    for (int y = 0; y < kTileIn; ++y) {
      V row[kTileIn];
      V result[kTileIn];
#pragma GCC unroll 6
      for (int x = 0; x < kTileIn; ++x) row[x] = columns[x][y];
      to_points(row, result);
#pragma GCC unroll 6
      for (int x = 0; x < kTileIn; ++x) {
        result[x].store(out + (y * kTileIn + x) * point_stride + c);
      }
    }
  }
}

template <class V, typename T>
void store_tile(const float* products, int64_t point_stride, const float* bias,
                bool relu, int64_t count, T* const* outputs) {
  for (int64_t c = 0; c < count; c += V::kLanes) {
    V columns[kTileIn][kTileOut];
#pragma GCC unroll 6
    for (int x = 0; x < kTileIn; ++x) {
      V column[kTileIn];
#pragma GCC unroll 6
      for (int y = 0; y < kTileIn; ++y) {
        column[y] = V::load(products + (y * kTileIn + x) * point_stride + c);
      }
      from_points(column, columns[x]);
    }
    const V shift = bias != nullptr ? V::load(bias + c) : V::all(0.0f);
#pragma GCC unroll 4
    for (int y = 0; y < kTileOut; ++y) {
      V row[kTileIn];
      V result[kTileOut];
#pragma GCC unroll 6
      for (int x = 0; x < kTileIn; ++x) row[x] = columns[x][y];
      from_points(row, result);
#pragma GCC unroll 4
      for (int x = 0; x < kTileOut; ++x) {
        T* output = outputs[y * kTileOut + x];
        if (output == nullptr) continue;
        V value = result[x] + shift;
        if (relu) value = positive(value);
        if (c + V::kLanes <= count) {
          store_as(value, output + c);
        } else {
          T last[V::kLanes];
          store_as(value, last);
          std::memcpy(output + c, last, (count - c) * sizeof(T));
        }
      }
    }
  }
}

// The transpose of from_points: gradients of products from those of outputs.
template <class V>
inline void to_product_grads(const V in[kTileOut], V out[kTileIn]) {
  const V even_near = fused(V::all(kNear2), in[2], in[0]);
  const V odd_near =
      fused(V::all(kNear2 * kNear), in[3], V::all(kNear) * in[1]);
  const V even_far = fused(V::all(kFar2), in[2], in[0]);
  const V odd_far = fused(V::all(kFar2 * kFar), in[3], V::all(kFar) * in[1]);
  out[0] = in[0];
  out[1] = even_near + odd_near;
  out[2] = even_near - odd_near;
  out[3] = even_far + odd_far;
  out[4] = even_far - odd_far;
  out[5] = in[3];
}

// The transpose of the kernel's transform.
template <class V>
inline void to_kernel_grads(const V in[kTileIn], V out[kKernel]) {
  const V near = V::all(kNearScale);
  const V far = V::all(kFarScale);
  const V even_near = near * (in[1] + in[2]);
  const V odd_near = near * (in[1] - in[2]);
  const V even_far = far * (in[3] + in[4]);
  const V odd_far = far * (in[3] - in[4]);
  out[0] = fused(V::all(kZeroScale), in[0], even_near + even_far);
  out[1] = fused(V::all(kNear), odd_near, V::all(kFar) * odd_far);
  out[2] =
      fused(V::all(kNear2), even_near, fused(V::all(kFar2), even_far, in[5]));
}

template <class V>
void load_grad_tile(const float* const* points, int64_t count, float* out,
                    int64_t point_stride) {
  for (int64_t c = 0; c < count; c += V::kLanes) {
    V columns[kTileOut][kTileIn];
#pragma GCC unroll 4
    for (int x = 0; x < kTileOut; ++x) {
      V column[kTileOut];
#pragma GCC unroll 4
      for (int y = 0; y < kTileOut; ++y) {
        column[y] = V::load(points[y * kTileOut + x] + c);
      }
      to_product_grads(column, columns[x]);
    }
#pragma GCC unroll 6
    for (int y = 0; y < kTileIn; ++y) {
      V row[kTileOut];
      V result[kTileIn];
#pragma GCC unroll 4
      for (int x = 0; x < kTileOut; ++x) row[x] = columns[x][y];
      to_product_grads(row, result);
#pragma GCC unroll 6
      for (int x = 0; x < kTileIn; ++x) {
        result[x].store(out + (y * kTileIn + x) * point_stride + c);
      }
    }
  }
}

template <class V>
void store_kernel_grad(const float* points, int64_t point_stride, int64_t count,
                       float* out, int64_t out_stride) {
  for (int64_t c = 0; c < count; c += V::kLanes) {
    V columns[kTileIn][kKernel];
#pragma GCC unroll 6
    for (int x = 0; x < kTileIn; ++x) {
      V column[kTileIn];
#pragma GCC unroll 6
      for (int y = 0; y < kTileIn; ++y) {
        column[y] = V::load(points + (y * kTileIn + x) * point_stride + c);
      }
      to_kernel_grads(column, columns[x]);
    }
#pragma GCC unroll 3
    for (int y = 0; y < kKernel; ++y) {
      V row[kTileIn];
      V result[kKernel];
#pragma GCC unroll 6
      for (int x = 0; x < kTileIn; ++x) row[x] = columns[x][y];
      to_kernel_grads(row, result);
#pragma GCC unroll 3
      for (int x = 0; x < kKernel; ++x) {
        result[x].store(out + (y * kKernel + x) * out_stride + c);
      }
    }
  }
}

template <class V, typename T>
constexpr MapKernels<T> make_map_kernels() {
  return {&load_row<V, T>, &store_row<V, T>, &load_tile<V, T>,
          &store_tile<V, T>};
}

template <class V>
constexpr ConvKernels make_conv_kernels(const char* name) {
  return {name,
          V::kRows,
          &multiply<V>,
          &multiply_transposed<V>,
          nullptr,
          make_map_kernels<V, float>(),
          make_map_kernels<V, uint16_t>(),
          &load_grad_tile<V>,
          &store_kernel_grad<V>};
}

}  // namespace
}  // namespace tcm_d2
