// The inner loops of packed matrix products and of Winograd's convolution, once
// per instruction set.
//
// A product is C = A B. B, the weight, is packed in panels of kPanel columns:
// (panels, depth, kPanel), padded with zeros. A is copied into slabs of up to
// kSlab columns with a row stride of kRowStride values: the kernels then have
// constant distances, and rows do not fall onto the same cache sets.

#pragma once

#include <cstdint>

namespace tcm_d2 {

constexpr int kPanel = 32;
constexpr int kSlab = 256;
constexpr int kRowStride = kSlab + 16;  // a cache line of floats more
// Lanes of the widest kernels: channels come in multiples of it.
constexpr int kChannelStep = 16;

// Winograd's F(4x4, 3x3): a tile of 4x4 outputs from 6x6 inputs.
constexpr int kTileOut = 4;
constexpr int kTileIn = 6;
constexpr int kKernel = 3;
constexpr int kTilePoints = kTileIn * kTileIn;
constexpr int kTileOutputs = kTileOut * kTileOut;

// The points of the transforms are 0, +-kNear, +-kFar and infinity; the kernel
// is divided by the products of a point's distances from the others.
constexpr float kNear = 0.625f;
constexpr float kFar = 1.5f;
constexpr float kNear2 = kNear * kNear;
constexpr float kFar2 = kFar * kFar;
constexpr double kZeroScale = 1.0 / (double(kNear2) * kFar2);
constexpr double kNearScale = 0.5 / (double(kNear2) * (kNear2 - kFar2));
constexpr double kFarScale = 0.5 / (double(kFar2) * (kFar2 - kNear2));

// T is the type of maps in memory, float or c10::BFloat16's bits.
template <typename T>
struct MapKernels {
  // Copies count values of a row into a slab.
  void (*load_row)(const T* row, int64_t count, float* slab);
  // out[i] = finished values[i] for count values of a row.
  void (*store_row)(const float* values, const float* bias, const T* residual,
                    bool relu, int64_t count, T* out);
  // The transform of the tile whose 36 inputs lie at points, for count
  // channels; point p of the result goes to out + p * point_stride.
  void (*load_tile)(const T* const* points, int64_t count, float* out,
                    int64_t point_stride);
  // The 4x4 outputs of a tile from its 36 products, for count channels; null
  // pointers for what lies outside of the map. Products and bias reach up to
  // the next multiple of kChannelStep.
  void (*store_tile)(const float* products, int64_t point_stride,
                     const float* bias, bool relu, int64_t count,
                     T* const* outputs);
};

struct ConvKernels {
  const char* name;
  int max_rows;
  // c (rows, kPanel) with row stride c_stride (+)= a (rows, depth) b (depth,
  // kPanel) for rows <= max_rows and depth <= kSlab.
  void (*multiply)(const float* a, int rows, const float* b, int64_t depth,
                   bool accumulate, float* c, int64_t c_stride);
  // The same with a as (depth, rows), row stride kRowStride.
  void (*multiply_transposed)(const float* a, int rows, const float* b,
                              int64_t depth, bool accumulate, float* c,
                              int64_t c_stride);
  // As multiply for bfloat16 with sums in float32: b has pairs of values below
  // each other side by side, (depth / 2, kPanel, 2), and depth is even. Null
  // where the processor has no such products.
  void (*multiply_bfloat16)(const uint16_t* a, int rows, const uint16_t* b,
                            int64_t depth, bool accumulate, float* c,
                            int64_t c_stride);
  MapKernels<float> float_maps;
  MapKernels<uint16_t> bfloat16_maps;
  // The gradients of a tile's 36 products from those of its 16 outputs, which
  // lie at points, for count channels.
  void (*load_grad_tile)(const float* const* points, int64_t count, float* out,
                         int64_t point_stride);
  // The gradients of 3x3 kernels from those at the 36 points.
  void (*store_kernel_grad)(const float* points, int64_t point_stride,
                            int64_t count, float* out, int64_t out_stride);
};

// Side of the blocks that transpose_block works on.
constexpr int kBlockSide = 8;
// Writes the transpose of a block, row strides in floats.
using TransposeBlock = void (*)(const float* in, int64_t in_stride, float* out,
                                int64_t out_stride);
TransposeBlock transpose_block_kernel();

// The fastest kernels that this processor runs.
const ConvKernels& conv_kernels();

extern const ConvKernels kPlainConvKernels;
#if defined(__GNUC__) && defined(__x86_64__)
#define TCM_D2_X86_CONV_KERNELS
extern const ConvKernels kAvx2ConvKernels;
extern const ConvKernels kAvx512ConvKernels;
void transpose_block_avx2(const float* in, int64_t in_stride, float* out,
                          int64_t out_stride);
void multiply_bfloat16_avx512(const uint16_t* a, int rows, const uint16_t* b,
                              int64_t depth, bool accumulate, float* c,
                              int64_t c_stride);
#endif

}  // namespace tcm_d2
