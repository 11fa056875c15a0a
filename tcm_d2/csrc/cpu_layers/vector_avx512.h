// Sixteen floats. Included after the pragma that chooses the instruction set.

#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tcm_d2 {
namespace {

struct Vector {
  static constexpr int kLanes = 16;
  // 28 sums, 2 columns and a value: 31 of 32 registers.
  static constexpr int kRows = 14;
  static constexpr int kCols = 2;

  __m512 v;

  static Vector all(float value) { return {_mm512_set1_ps(value)}; }
  static Vector load(const float* values) { return {_mm512_loadu_ps(values)}; }
  static Vector load_bfloat16(const uint16_t* values) {
    const __m256i half =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
    return {_mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  }
  void store(float* out) const { _mm512_storeu_ps(out, v); }
  void store_bfloat16(uint16_t* out) const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd =
        _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(
        _mm512_add_epi32(bits,
                         _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))),
        16);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    rounded = _mm512_mask_set1_epi32(rounded, is_nan, 0x7fc0);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        _mm512_cvtepi32_epi16(rounded));
  }
};

inline Vector operator+(Vector a, Vector b) {
  return {_mm512_add_ps(a.v, b.v)};
}
inline Vector operator-(Vector a, Vector b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
inline Vector operator*(Vector a, Vector b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
inline Vector fused(Vector a, Vector b, Vector c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// The second operand where one is NaN.
inline Vector positive(Vector a) {
  return {_mm512_max_ps(_mm512_setzero_ps(), a.v)};
}

}  // namespace
}  // namespace tcm_d2
