// For processors without kernels of their own: right, not fast.

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "conv_kernels.h"
#include "conv_kernels_impl.h"

namespace tcm_d2 {
namespace {

struct Vector {
  static constexpr int kLanes = 1;
  static constexpr int kRows = 2;
  static constexpr int kCols = 4;

  float v;

  static Vector all(float value) { return {value}; }
  static Vector load(const float* values) { return {*values}; }
  static Vector load_bfloat16(const uint16_t* values) {
    return {widen(*values)};
  }
  void store(float* out) const { *out = v; }
  void store_bfloat16(uint16_t* out) const { narrow(v, out); }
};

inline Vector operator+(Vector a, Vector b) { return {a.v + b.v}; }
inline Vector operator-(Vector a, Vector b) { return {a.v - b.v}; }
inline Vector operator*(Vector a, Vector b) { return {a.v * b.v}; }
inline Vector fused(Vector a, Vector b, Vector c) { return {a.v * b.v + c.v}; }
inline Vector positive(Vector a) { return {a.v < 0.0f ? 0.0f : a.v}; }

}  // namespace

const ConvKernels kPlainConvKernels = make_conv_kernels<Vector>("plain");

namespace {

// TCM_D2_CPU_KERNELS=avx2 or plain forbids faster ones: for tests, and to find
// out where a difference comes from.
bool is_allowed(const char* name) {
  const char* most = std::getenv("TCM_D2_CPU_KERNELS");
  if (most == nullptr || std::strcmp(most, "avx512") == 0) return true;
  return std::strcmp(most, "avx2") == 0 && std::strcmp(name, "avx2") == 0;
}

ConvKernels choose_kernels() {
#if defined(TCM_D2_X86_CONV_KERNELS)
  if (is_allowed("avx512") && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    ConvKernels kernels = kAvx512ConvKernels;
    if (__builtin_cpu_supports("avx512bf16")) {
      kernels.multiply_bfloat16 = &multiply_bfloat16_avx512;
    }
    return kernels;
  }
  if (is_allowed("avx2") && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma")) {
    return kAvx2ConvKernels;
  }
#endif
  return kPlainConvKernels;
}

void transpose_block_plain(const float* in, int64_t in_stride, float* out,
                           int64_t out_stride) {
  for (int i = 0; i < kBlockSide; ++i) {
    for (int j = 0; j < kBlockSide; ++j) {
      out[j * out_stride + i] = in[i * in_stride + j];
    }
  }
}

}  // namespace

TransposeBlock transpose_block_kernel() {
#if defined(TCM_D2_X86_CONV_KERNELS)
  static const bool has_avx2 =
      is_allowed("avx2") && __builtin_cpu_supports("avx2") != 0;
  if (has_avx2) return &transpose_block_avx2;
#endif
  return &transpose_block_plain;
}

const ConvKernels& conv_kernels() {
  static const ConvKernels kernels = choose_kernels();
  return kernels;
}

}  // namespace tcm_d2

// For tests.
extern "C" const char* tcm_d2_conv_kernels() {
  return tcm_d2::conv_kernels().name;
}
