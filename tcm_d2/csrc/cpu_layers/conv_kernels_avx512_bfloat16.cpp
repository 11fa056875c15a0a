#include "conv_kernels.h"

#if defined(TCM_D2_X86_CONV_KERNELS)

// GCC 12 takes the headers' undefined vectors for a mistake.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

#include <cstdint>
#include <cstring>

// After all other headers: their inline functions are everyone's.
#if defined(__clang__)
#pragma clang attribute push(                                          \
    __attribute__((                                                    \
        target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")
#endif

#include "conv_kernels_impl.h"
#include "vector_avx512.h"

namespace tcm_d2 {

namespace {

// Sums of the products of two pairs in each lane.
struct PairProduct {
  using Vector = tcm_d2::Vector;
  static constexpr int kStride = kRowStride / 2;
  static Vector add(Vector a, Vector b, Vector sum) {
    return {_mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(a.v),
                             reinterpret_cast<__m512bh>(b.v))};
  }
};

}  // namespace

void multiply_bfloat16_avx512(const uint16_t* a, int rows, const uint16_t* b,
                              int64_t depth, bool accumulate, float* c,
                              int64_t c_stride) {
  // only ever loaded, as bits
  multiply_up_to<PairProduct, Vector::kRows>(
      reinterpret_cast<const float*>(a), rows,
      reinterpret_cast<const float*>(b), depth / 2, accumulate, c, c_stride);
}

}  // namespace tcm_d2

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
