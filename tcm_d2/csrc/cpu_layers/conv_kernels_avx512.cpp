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
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#endif

#include "conv_kernels_impl.h"
#include "vector_avx512.h"

namespace tcm_d2 {

const ConvKernels kAvx512ConvKernels = make_conv_kernels<Vector>("AVX-512");

}  // namespace tcm_d2

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
