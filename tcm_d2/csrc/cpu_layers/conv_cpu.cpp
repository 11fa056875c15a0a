// Convolutions and linear layers with packed weights: products of matrices in
// blocks that stay in the cache, 3x3 convolutions by Winograd's algorithm
// (Lavin and Gray, arXiv 1509.09308) with a quarter of the multiplications.
// Bias, shortcut and ReLU are applied on the way out.
//
// Every output is computed in an order that depends on the shapes alone, so
// that results do not depend on the number of threads.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

#include "conv_kernels.h"
#include "layers.h"

namespace tcm_d2 {
namespace {

// Rows of a block of a product. Its part of A and of C should stay in a second
// level cache.
constexpr int64_t kMaxBlockRows = 112;
constexpr int64_t kBlockBytes = 768 << 10;
// Tiles of a block of Winograd's algorithm: the weights pass by once per block.
constexpr int64_t kMaxBlockTiles = 56;

template <typename T>
const MapKernels<T>& map_kernels(const ConvKernels& kernels);
template <>
const MapKernels<float>& map_kernels(const ConvKernels& kernels) {
  return kernels.float_maps;
}
template <>
const MapKernels<uint16_t>& map_kernels(const ConvKernels& kernels) {
  return kernels.bfloat16_maps;
}

template <typename T>
void load_row(const ConvKernels& kernels, const T* row, int64_t count,
              float* slab) {
  map_kernels<T>(kernels).load_row(row, count, slab);
}
void load_row(const ConvKernels&, const uint16_t* row, int64_t count,
              uint16_t* slab) {
  std::copy_n(row, count, slab);
  slab[count] = 0;  // beside an odd one
}

void multiply(const ConvKernels& kernels, const float* a, int rows,
              const float* b, int64_t depth, bool accumulate, float* c,
              int64_t c_stride) {
  kernels.multiply(a, rows, b, depth, accumulate, c, c_stride);
}
void multiply(const ConvKernels& kernels, const uint16_t* a, int rows,
              const uint16_t* b, int64_t depth, bool accumulate, float* c,
              int64_t c_stride) {
  kernels.multiply_bfloat16(a, rows, b, depth + depth % 2, accumulate, c,
                            c_stride);
}

template <typename T, typename S>
void run_linear_block(const Linear<T, S>& job, const ConvKernels& kernels,
                      int64_t begin, int64_t end) {
  const int64_t rows = end - begin;
  const int64_t c_stride = job.panels * kPanel + kChannelStep;
  float* sums = scratch(rows * (kRowStride + c_stride));
  S* slab = reinterpret_cast<S*>(sums + rows * c_stride);
  for (int64_t start = 0; start < job.depth; start += kSlab) {
    const int64_t depth = std::min<int64_t>(kSlab, job.depth - start);
    for (int64_t i = 0; i < rows; ++i) {
      load_row(kernels, job.x + (begin + i) * job.depth + start, depth,
               slab + i * kRowStride);
    }
    for (int64_t panel = 0; panel < job.panels; ++panel) {
      const S* b = job.packed + (panel * job.packed_depth + start) * kPanel;
      for (int64_t i = 0; i < rows; i += kernels.max_rows) {
        const int count =
            static_cast<int>(std::min<int64_t>(kernels.max_rows, rows - i));
        multiply(kernels, slab + i * kRowStride, count, b, depth, start > 0,
                 sums + i * c_stride + panel * kPanel, c_stride);
      }
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = (begin + i) * job.columns;
    map_kernels<T>(kernels).store_row(
        sums + i * c_stride, job.bias,
        job.residual == nullptr ? nullptr : job.residual + at, job.relu,
        job.columns, job.out + at);
  }
}

template <typename T>
void run_winograd_block(const Winograd<T>& job, const ConvKernels& kernels,
                        int64_t begin, int64_t end) {
  const MapKernels<T>& maps = map_kernels<T>(kernels);
  const int64_t tiles = end - begin;
  const int64_t slabs = divide_up(job.x.channels, kSlab);
  const int64_t slab_size = tiles * kRowStride;
  const int64_t point_stride = slabs * slab_size;
  float* inputs = scratch(kTilePoints * (point_stride + tiles * kPanel));
  float* products = inputs + kTilePoints * point_stride;
  for (int64_t i = 0; i < tiles; ++i) {
    const T* points[kTilePoints];
    job.x.template find<1>(begin + i, job.zeros, points);
    for (int64_t s = 0; s < slabs; ++s) {
      const int64_t count =
          std::min<int64_t>(kSlab, job.x.channels - s * kSlab);
      maps.load_tile(points, count, inputs + s * slab_size + i * kRowStride,
                     point_stride);
      for (const T*& point : points) point += kSlab;
    }
  }
  for (int64_t panel = 0; panel < job.panels; ++panel) {
    for (int p = 0; p < kTilePoints; ++p) {
      const float* b =
          job.packed + (panel * kTilePoints + p) * job.x.channels * kPanel;
      float* c = products + p * tiles * kPanel;
      for (int64_t s = 0; s < slabs; ++s) {
        const int64_t depth =
            std::min<int64_t>(kSlab, job.x.channels - s * kSlab);
        const float* a = inputs + p * point_stride + s * slab_size;
        for (int64_t i = 0; i < tiles; i += kernels.max_rows) {
          const int count =
              static_cast<int>(std::min<int64_t>(kernels.max_rows, tiles - i));
          kernels.multiply(a + i * kRowStride, count, b + s * kSlab * kPanel,
                           depth, s > 0, c + i * kPanel, kPanel);
        }
      }
    }
    const int64_t column = panel * kPanel;
    const int64_t count = std::min<int64_t>(kPanel, job.out.channels - column);
    for (int64_t i = 0; i < tiles; ++i) {
      T* outputs[kTileOutputs];
      job.out.template find<0>(begin + i, nullptr, outputs);
      for (T*& output : outputs) output += output != nullptr ? column : 0;
      maps.store_tile(products + i * kPanel, tiles * kPanel,
                      job.bias == nullptr ? nullptr : job.bias + column,
                      job.relu, count, outputs);
    }
  }
}

}  // namespace

template <typename T, typename S>
void run_linear(const Linear<T, S>& job) {
  if (job.rows == 0) return;
  const ConvKernels& kernels = conv_kernels();
  const int64_t group = kernels.max_rows;
  const int64_t row_bytes =
      (kRowStride + job.panels * kPanel) * static_cast<int64_t>(sizeof(float));
  int64_t block = std::min(kMaxBlockRows, kBlockBytes / row_bytes);
  block = std::min(block, divide_up(job.rows, at::get_num_threads()));
  block = std::max<int64_t>(1, divide_up(block, group)) * group;
  at::parallel_for(0, divide_up(job.rows, block), 1,
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       run_linear_block(job, kernels, i * block,
                                        std::min((i + 1) * block, job.rows));
                     }
                   });
}

template <typename T>
void run_winograd(const Winograd<T>& job) {
  if (job.x.num_tiles() == 0) return;
  const ConvKernels& kernels = conv_kernels();
  const int64_t group = kernels.max_rows;
  const int64_t share = divide_up(job.x.num_tiles(), at::get_num_threads());
  const int64_t block =
      divide_up(std::min(kMaxBlockTiles, share), group) * group;
  at::parallel_for(0, divide_up(job.x.num_tiles(), block), 1,
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       run_winograd_block(
                           job, kernels, i * block,
                           std::min((i + 1) * block, job.x.num_tiles()));
                     }
                   });
}

template void run_linear(const Linear<float, float>&);
template void run_linear(const Linear<uint16_t, float>&);
template void run_linear(const Linear<uint16_t, uint16_t>&);
template void run_winograd(const Winograd<float>&);
template void run_winograd(const Winograd<uint16_t>&);

}  // namespace tcm_d2
