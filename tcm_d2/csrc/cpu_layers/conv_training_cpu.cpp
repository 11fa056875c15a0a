// What training needs beside conv_cpu.cpp: the packing of 3x3 kernels, once a
// step, and their gradient by the transpose of Winograd's algorithm: of each
// tile the 36 points of inputs and of output gradients, and one product of
// matrices a point, over all tiles.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "conv_kernels.h"
#include "layers.h"

namespace tcm_d2 {
namespace {

// Tiles whose points are in memory at once: 20 MB with 256 channels. Sums run
// over so many, whatever the number of threads.
constexpr int64_t kChunkTiles = 256;

// kPanel kernels side by side: value v of kernel k is at [v][k].
template <int kValues>
using Lanes = double[kValues][kPanel];

void to_points(const double* const in[kKernel], double* const out[kTileIn]) {
  for (int k = 0; k < kPanel; ++k) {
    const double near = kNearScale * (in[0][k] + kNear2 * in[2][k]);
    const double near_odd = kNearScale * kNear * in[1][k];
    const double far = kFarScale * (in[0][k] + kFar2 * in[2][k]);
    const double far_odd = kFarScale * kFar * in[1][k];
    out[0][k] = kZeroScale * in[0][k];
    out[1][k] = near + near_odd;
    out[2][k] = near - near_odd;
    out[3][k] = far + far_odd;
    out[4][k] = far - far_odd;
    out[5][k] = in[2][k];
  }
}

// Point p of kernel k goes to out[p * stride + k].
void pack_kernels(Lanes<kKernel * kKernel> kernels, float* out,
                  int64_t stride) {
  Lanes<kTileIn * kKernel> columns;  // transformed down
  Lanes<kTileIn> points;
  for (int x = 0; x < kKernel; ++x) {
    const double* in[kKernel];
    double* down[kTileIn];
    for (int y = 0; y < kKernel; ++y) in[y] = kernels[y * kKernel + x];
    for (int y = 0; y < kTileIn; ++y) down[y] = columns[y * kKernel + x];
    to_points(in, down);
  }
  for (int y = 0; y < kTileIn; ++y) {
    const double* in[kKernel];
    double* across[kTileIn];
    for (int x = 0; x < kKernel; ++x) in[x] = columns[y * kKernel + x];
    for (int x = 0; x < kTileIn; ++x) across[x] = points[x];
    to_points(in, across);
    for (int x = 0; x < kTileIn; ++x) {
      std::copy_n(points[x], kPanel, out + (y * kTileIn + x) * stride);
    }
  }
}

struct KernelGrad {
  TiledMaps<const float> x;
  TiledMaps<const float> grad;
  std::vector<float> zeros;  // as many as channels of either
  int64_t slabs;             // of x
  int64_t panels;            // of grad
  int64_t tiles;             // of a chunk
  float* inputs;             // (kTilePoints, slabs, tiles, kRowStride)
  float* grads;              // (kTilePoints, panels, tiles, kPanel)
  float* kernels;            // (kTilePoints, channels of x, panels * kPanel)
};

void load_tile(const KernelGrad& job, const ConvKernels& kernels, int64_t tile,
               int64_t at) {
  const float* points[kTilePoints];
  job.x.find<1>(tile, job.zeros.data(), points);
  const int64_t slab_size = job.tiles * kRowStride;
  for (int64_t s = 0; s < job.slabs; ++s) {
    const int64_t count = std::min<int64_t>(kSlab, job.x.channels - s * kSlab);
    kernels.float_maps.load_tile(points, count,
                                 job.inputs + s * slab_size + at * kRowStride,
                                 job.slabs * slab_size);
    for (const float*& point : points) point += kSlab;
  }
  const float* outputs[kTileOutputs];
  job.grad.find<0>(tile, job.zeros.data(), outputs);
  const int64_t panel_size = job.tiles * kPanel;
  for (int64_t panel = 0; panel < job.panels; ++panel) {
    const int64_t count =
        std::min<int64_t>(kPanel, job.grad.channels - panel * kPanel);
    kernels.load_grad_tile(outputs, count,
                           job.grads + panel * panel_size + at * kPanel,
                           job.panels * panel_size);
    for (const float*& output : outputs) output += kPanel;
  }
}

void add_products(const KernelGrad& job, const ConvKernels& kernels,
                  int64_t point, int64_t tiles, bool accumulate) {
  const int64_t c_stride = job.panels * kPanel;
  float* c = job.kernels + point * job.x.channels * c_stride;
  for (int64_t s = 0; s < job.slabs; ++s) {
    const float* a =
        job.inputs + (point * job.slabs + s) * job.tiles * kRowStride;
    const int64_t channels =
        std::min<int64_t>(kSlab, job.x.channels - s * kSlab);
    for (int64_t panel = 0; panel < job.panels; ++panel) {
      const float* b =
          job.grads + (point * job.panels + panel) * job.tiles * kPanel;
      for (int64_t i = 0; i < channels; i += kernels.max_rows) {
        const int count =
            static_cast<int>(std::min<int64_t>(kernels.max_rows, channels - i));
        kernels.multiply_transposed(
            a + i, count, b, tiles, accumulate,
            c + (s * kSlab + i) * c_stride + panel * kPanel, c_stride);
      }
    }
  }
}

}  // namespace

void pack_conv3x3(const float* kernels, int64_t outputs, int64_t inputs,
                  bool transposed, float* packed) {
  const int64_t panels = divide_up(outputs, kPanel);
  constexpr int kArea = kKernel * kKernel;
  const int64_t stride_k = kArea * (transposed ? 1 : inputs);
  const int64_t stride_c = kArea * (transposed ? outputs : 1);
  at::parallel_for(0, panels * inputs, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i / inputs * kPanel;
      const int64_t c = i % inputs;
      const int64_t count = std::min<int64_t>(kPanel, outputs - first);
      Lanes<kArea> lanes = {};
      for (int64_t k = 0; k < count; ++k) {
        const float* from = kernels + (first + k) * stride_k + c * stride_c;
        for (int v = 0; v < kArea; ++v) {
          lanes[v][k] = from[transposed ? kArea - 1 - v : v];
        }
      }
      pack_kernels(lanes,
                   packed + (i / inputs * kTilePoints * inputs + c) * kPanel,
                   inputs * kPanel);
    }
  });
}

void conv3x3_weight_grad(const TiledMaps<const float>& x,
                         const TiledMaps<const float>& grad,
                         float* kernel_grad) {
  const ConvKernels& kernels = conv_kernels();
  const int64_t channels = x.channels;
  const int64_t columns = grad.channels;
  const int64_t num_tiles = x.num_tiles();
  if (num_tiles == 0 || channels == 0 || columns == 0) {
    std::fill_n(kernel_grad, kKernel * kKernel * channels * columns, 0.0f);
    return;
  }
  KernelGrad job = {x,
                    grad,
                    std::vector<float>(std::max(channels, columns)),
                    divide_up(channels, kSlab),
                    divide_up(columns, kPanel),
                    0,
                    nullptr,
                    nullptr,
                    nullptr};
  job.tiles = std::min(kChunkTiles, num_tiles);
  const int64_t input_size = job.slabs * job.tiles * kRowStride;
  const int64_t grad_size = job.panels * job.tiles * kPanel;
  const int64_t kernel_size = channels * job.panels * kPanel;
  job.inputs = scratch(kTilePoints * (input_size + grad_size + kernel_size));
  job.grads = job.inputs + kTilePoints * input_size;
  job.kernels = job.grads + kTilePoints * grad_size;
  for (int64_t start = 0; start < num_tiles; start += job.tiles) {
    const int64_t tiles = std::min(job.tiles, num_tiles - start);
    at::parallel_for(0, tiles, 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        load_tile(job, kernels, start + i, i);
      }
    });
    at::parallel_for(0, kTilePoints, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        add_products(job, kernels, p, tiles, start > 0);
      }
    });
  }
  at::parallel_for(0, channels, 8, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      kernels.store_kernel_grad(job.kernels + c * job.panels * kPanel,
                                kernel_size, columns, kernel_grad + c * columns,
                                channels * columns);
    }
  });
}

}  // namespace tcm_d2
