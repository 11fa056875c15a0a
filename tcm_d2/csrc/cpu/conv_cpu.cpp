// Convolutions and linear layers with packed weights: products of matrices in
// blocks that stay in the cache, 3x3 convolutions by Winograd's algorithm
// (Lavin and Gray, arXiv 1509.09308) with a quarter of the multiplications.
// Bias, shortcut and ReLU are applied on the way out.
//
// Every output is computed in an order that depends on the shapes alone, so
// that results do not depend on the number of threads.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "conv_kernels.h"
#include "conv_tiles.h"

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

// Maps of type T, factors of type S: float or the bits of bfloat16.
template <typename T, typename S>
struct Linear {
  const T* x;  // (rows, depth)
  int64_t rows;
  int64_t depth;
  const S* packed;  // (panels, packed_depth, kPanel)
  int64_t packed_depth;
  int64_t panels;
  const float* bias;  // (columns) or null
  const T* residual;  // (rows, columns) or null
  bool relu;
  T* out;  // (rows, columns)
  int64_t columns;
};

template <typename T>
void load_row(const ConvKernels& kernels, const T* row, int64_t count,
              float* slab) {
  map_kernels<T>(kernels).load_row(row, count, slab);
}
void load_row(const ConvKernels&, const uint16_t* row, int64_t count,
              uint16_t* slab) {
  std::copy_n(row, count, slab);
  slab[count] = 0;  // a partner for an odd one
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

// The bias with zeros up to whole panels; empty without one.
std::vector<float> pad_bias(const std::optional<at::Tensor>& bias,
                            int64_t panels) {
  if (!bias.has_value()) return {};
  std::vector<float> padded(panels * kPanel);
  std::copy_n(bias->const_data_ptr<float>(), bias->size(0), padded.begin());
  return padded;
}

const float* pointer_or_null(const std::vector<float>& values) {
  return values.empty() ? nullptr : values.data();
}

// The bits of a float32 or bfloat16 tensor.
template <typename T>
const T* bits_of(const at::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

void check_map(const at::Tensor& x, const char* name) {
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16,
              name, ": expected float32 or bfloat16, got ", x.scalar_type());
}

void check_packed(const at::Tensor& packed,
                  const std::optional<at::Tensor>& bias, int64_t columns) {
  TORCH_CHECK(packed.is_contiguous(), "packed: expected it contiguous");
  TORCH_CHECK(packed.size(0) == divide_up(columns, kPanel),
              "columns: expected a number for ", packed.size(0),
              " panels, got ", columns);
  TORCH_CHECK(!bias.has_value() ||
                  (bias->scalar_type() == at::kFloat && bias->dim() == 1 &&
                   bias->size(0) == columns && bias->is_contiguous()),
              "bias: expected float32 of shape (", columns, ",)");
}

at::Tensor linear_packed_cpu(const at::Tensor& x, const at::Tensor& packed,
                             const std::optional<at::Tensor>& bias,
                             const std::optional<at::Tensor>& residual,
                             bool relu, int64_t columns) {
  check_map(x, "x");
  const bool in_pairs = packed.scalar_type() == at::kBFloat16;
  TORCH_CHECK(
      in_pairs
          ? packed.dim() == 4 && packed.size(2) == kPanel && packed.size(3) == 2
          : packed.dim() == 3 && packed.size(2) == kPanel &&
                packed.scalar_type() == at::kFloat,
      "packed: expected float32 (P, D, ", kPanel, ") or bfloat16 (P, D / 2, ",
      kPanel, ", 2), got ", packed.scalar_type(), " ", packed.sizes());
  check_packed(packed, bias, columns);
  const int64_t packed_depth = packed.size(1) * (in_pairs ? 2 : 1);
  TORCH_CHECK(x.dim() == 2 && (x.size(1) == packed_depth ||
                               (in_pairs && x.size(1) == packed_depth - 1)),
              "x: expected shape (M, ", packed_depth, "), got ", x.sizes());
  TORCH_CHECK(packed_depth > 0, "x: expected columns, got none");
  TORCH_CHECK(!in_pairs || (x.scalar_type() == at::kBFloat16 &&
                            conv_kernels().multiply_bfloat16 != nullptr),
              "packed: bfloat16 needs maps in bfloat16 and a processor with "
              "AVX512_BF16; pack the weight in float32");
  const at::Tensor rows = x.contiguous();
  const std::vector<float> shift = pad_bias(bias, packed.size(0));
  at::Tensor out = at::empty({x.size(0), columns}, x.options());
  at::Tensor shortcut;
  if (residual.has_value()) {
    TORCH_CHECK(residual->sizes() == out.sizes() &&
                    residual->scalar_type() == x.scalar_type(),
                "residual: expected ", x.scalar_type(), " of shape ",
                out.sizes(), ", got ", residual->scalar_type(), " ",
                residual->sizes());
    shortcut = residual->contiguous();
  }
  const auto run = [&](auto map_zero, auto factor_zero) {
    using T = decltype(map_zero);
    using S = decltype(factor_zero);
    run_linear<T, S>({bits_of<T>(rows), x.size(0), x.size(1),
                      bits_of<S>(packed), packed_depth, packed.size(0),
                      pointer_or_null(shift),
                      shortcut.defined() ? bits_of<T>(shortcut) : nullptr, relu,
                      static_cast<T*>(out.mutable_data_ptr()), columns});
  };
  if (in_pairs) {
    run(uint16_t(), uint16_t());
  } else if (x.scalar_type() == at::kBFloat16) {
    run(uint16_t(), float());
  } else {
    run(float(), float());
  }
  return out;
}

at::Tensor conv3x3_packed_cpu(const at::Tensor& x, const at::Tensor& packed,
                              const std::optional<at::Tensor>& bias, bool relu,
                              int64_t columns) {
  check_map(x, "x");
  TORCH_CHECK(packed.dim() == 4 && packed.size(1) == kTilePoints &&
                  packed.size(3) == kPanel &&
                  packed.scalar_type() == at::kFloat,
              "packed: expected float32 (P, ", kTilePoints, ", C, ", kPanel,
              "), got ", packed.scalar_type(), " ", packed.sizes());
  check_packed(packed, bias, columns);
  TORCH_CHECK(packed.size(2) > 0, "x: expected channels, got none");
  TORCH_CHECK(x.dim() == 4 && x.size(1) == packed.size(2),
              "x: expected shape (N, ", packed.size(2), ", H, W), got ",
              x.sizes());
  TORCH_CHECK(x.size(1) % kChannelStep == 0, "x: expected a multiple of ",
              kChannelStep, " channels, got ", x.size(1));
  const at::Tensor map = x.contiguous(at::MemoryFormat::ChannelsLast);
  const std::vector<float> shift = pad_bias(bias, packed.size(0));
  at::Tensor out =
      at::empty({x.size(0), columns, x.size(2), x.size(3)},
                x.options().memory_format(at::MemoryFormat::ChannelsLast));
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> zeros(x.size(1), zero);
    run_winograd<T>(
        {{bits_of<T>(map), x.size(0), x.size(2), x.size(3), x.size(1)},
         packed.const_data_ptr<float>(),
         packed.size(0),
         pointer_or_null(shift),
         relu,
         {static_cast<T*>(out.mutable_data_ptr()), x.size(0), x.size(2),
          x.size(3), columns},
         zeros.data()});
  };
  x.scalar_type() == at::kFloat ? run(float()) : run(uint16_t());
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) {
  m.impl("linear_packed", &linear_packed_cpu);
  m.impl("conv3x3_packed", &conv3x3_packed_cpu);
}

}  // namespace tcm_d2
