#include "conv_kernels.h"

#if defined(TCM_D2_X86_CONV_KERNELS)

#include <immintrin.h>

#include <cstdint>
#include <cstring>

// After all other headers: their inline functions are everyone's.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#include "conv_kernels_impl.h"

namespace tcm_d2 {
namespace {

struct Vector {
  static constexpr int kLanes = 8;
  // 12 sums, 2 columns and a value: 15 of 16 registers.
  static constexpr int kRows = 6;
  static constexpr int kCols = 2;

  __m256 v;

  static Vector all(float value) { return {_mm256_set1_ps(value)}; }
  static Vector load(const float* values) { return {_mm256_loadu_ps(values)}; }
  static Vector load_bfloat16(const uint16_t* values) {
    const __m128i half =
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
    return {_mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
  }
  void store(float* out) const { _mm256_storeu_ps(out, v); }
  void store_bfloat16(uint16_t* out) const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd =
        _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(
        _mm256_add_epi32(bits,
                         _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))),
        16);
    const __m256 is_nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0),
                                 _mm256_castps_si256(is_nan));
    const __m128i packed = _mm_packus_epi32(
        _mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), packed);
  }
};

inline Vector operator+(Vector a, Vector b) {
  return {_mm256_add_ps(a.v, b.v)};
}
inline Vector operator-(Vector a, Vector b) {
  return {_mm256_sub_ps(a.v, b.v)};
}
inline Vector operator*(Vector a, Vector b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
inline Vector fused(Vector a, Vector b, Vector c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
// The second operand where one is NaN.
inline Vector positive(Vector a) {
  return {_mm256_max_ps(_mm256_setzero_ps(), a.v)};
}

}  // namespace

const ConvKernels kAvx2ConvKernels = make_conv_kernels<Vector>("AVX2");

void transpose_block_avx2(const float* in, int64_t in_stride, float* out,
                          int64_t out_stride) {
  __m256 rows[8];
  for (int i = 0; i < 8; ++i) rows[i] = _mm256_loadu_ps(in + i * in_stride);
  // pairs of rows, then fours, then halves
  __m256 pairs[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  __m256 fours[8];
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const __m256 a = pairs[i + j];
      const __m256 b = pairs[i + j + 2];
      fours[i + 2 * j] = _mm256_shuffle_ps(a, b, 0x44);
      fours[i + 2 * j + 1] = _mm256_shuffle_ps(a, b, 0xee);
    }
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(out + i * out_stride,
                     _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * out_stride,
                     _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31));
  }
}

}  // namespace tcm_d2

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
