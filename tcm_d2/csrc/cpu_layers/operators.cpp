// The operators on packed weights and on maps of torch.ops.tcm_d2, for the CPU.

#include <ATen/ops/empty.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "../host.h"
#include "conv_kernels.h"
#include "layers.h"

namespace tcm_d2 {
namespace {

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

// Maps for results of the size of x, with so many channels. Not a permuted
// tensor: autograd forbids a function's caller to change a view.
at::Tensor empty_channels_last(const at::Tensor& x, int64_t channels) {
  return at::empty({x.size(0), channels, x.size(2), x.size(3)},
                   x.options().memory_format(at::MemoryFormat::ChannelsLast));
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

at::Tensor linear_packed_op(const at::Tensor& x, const at::Tensor& packed,
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
  at::Tensor out = x.new_empty({x.size(0), columns});
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

at::Tensor conv3x3_packed_op(const at::Tensor& x, const at::Tensor& packed,
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
  at::Tensor out = empty_channels_last(x, columns);
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

at::Tensor pack_conv3x3_op(const at::Tensor& weight, bool transposed) {
  TORCH_CHECK(weight.dim() == 4 && weight.size(2) == kKernel &&
                  weight.size(3) == kKernel &&
                  weight.scalar_type() == at::kFloat,
              "weight: expected float32 (K, C, 3, 3), got ",
              weight.scalar_type(), " ", weight.sizes());
  const at::Tensor kernels = weight.contiguous();
  const int64_t outputs = weight.size(transposed ? 1 : 0);
  const int64_t inputs = weight.size(transposed ? 0 : 1);
  const int64_t panels = divide_up(outputs, kPanel);
  at::Tensor packed = weight.new_empty({panels, kTilePoints, inputs, kPanel});
  pack_conv3x3(kernels.const_data_ptr<float>(), outputs, inputs, transposed,
               packed.mutable_data_ptr<float>());
  return packed;
}

at::Tensor conv3x3_weight_grad_op(const at::Tensor& x, const at::Tensor& grad) {
  TORCH_CHECK(x.dim() == 4 && grad.dim() == 4 && x.size(0) == grad.size(0) &&
                  x.size(2) == grad.size(2) && x.size(3) == grad.size(3),
              "grad: expected (N, K, H, W) for x of shape ", x.sizes(),
              ", got ", grad.sizes());
  TORCH_CHECK(x.scalar_type() == at::kFloat && grad.scalar_type() == at::kFloat,
              "x and grad: expected float32, got ", x.scalar_type(), " and ",
              grad.scalar_type());
  const int64_t channels = x.size(1);
  const int64_t columns = grad.size(1);
  TORCH_CHECK(channels % kChannelStep == 0 && columns % kChannelStep == 0,
              "expected multiples of ", kChannelStep, " channels, got ",
              channels, " of x and ", columns, " of grad");
  const at::Tensor maps = x.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor grads = grad.contiguous(at::MemoryFormat::ChannelsLast);
  const auto tiled = [](const at::Tensor& map) -> TiledMaps<const float> {
    return {map.const_data_ptr<float>(), map.size(0), map.size(2), map.size(3),
            map.size(1)};
  };
  // (3, 3, C, K)
  at::Tensor result = x.new_empty({kKernel, kKernel, channels, columns});
  conv3x3_weight_grad(tiled(maps), tiled(grads),
                      result.mutable_data_ptr<float>());
  return result.permute({3, 2, 0, 1}).contiguous();
}

at::Tensor group_norm_relu_op(const at::Tensor& x, int64_t groups,
                              const at::Tensor& weight, const at::Tensor& bias,
                              double eps, bool relu) {
  TORCH_CHECK(x.dim() == 4 && groups > 0 && x.size(1) % groups == 0,
              "x: expected shape (N, C, H, W) with channels for ", groups,
              " groups, got ", x.sizes());
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16,
              "x: expected float32 or bfloat16, got ", x.scalar_type());
  for (const at::Tensor& values : {weight, bias}) {
    TORCH_CHECK(values.dim() == 1 && values.size(0) == x.size(1) &&
                    values.scalar_type() == at::kFloat,
                "weight and bias: expected float32 of shape (", x.size(1),
                ",), got ", values.scalar_type(), " ", values.sizes());
  }
  const at::Tensor maps = x.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor scales = weight.contiguous();
  const at::Tensor shifts = bias.contiguous();
  at::Tensor out = empty_channels_last(x, x.size(1));
  const int64_t num_cells = x.size(2) * x.size(3);
  const int64_t size = num_cells * x.size(1);
  if (x.numel() == 0) return out;
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    for (int64_t n = 0; n < x.size(0); ++n) {
      run_group_norm<T>({maps.const_data_ptr<T>() + n * size, num_cells,
                         x.size(1), groups, scales.const_data_ptr<float>(),
                         shifts.const_data_ptr<float>(), eps, relu,
                         out.mutable_data_ptr<T>() + n * size});
    }
  };
  x.scalar_type() == at::kFloat ? run(float()) : run(at::BFloat16());
  return out;
}

at::Tensor change_layout_op(const at::Tensor& x, bool channels_last) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat,
              "x: expected float32 of shape (N, C, H, W), got ",
              x.scalar_type(), " ", x.sizes());
  const at::Tensor maps =
      x.contiguous(channels_last ? at::MemoryFormat::Contiguous
                                 : at::MemoryFormat::ChannelsLast);
  at::Tensor out = channels_last ? empty_channels_last(x, x.size(1))
                                 : x.new_empty(x.sizes());
  const int64_t cells = x.size(2) * x.size(3);
  const int64_t rows = channels_last ? x.size(1) : cells;
  const int64_t columns = channels_last ? cells : x.size(1);
  if (out.numel() == 0) return out;
  transpose_maps(maps.const_data_ptr<float>(), x.size(0), rows, columns,
                 out.mutable_data_ptr<float>());
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) {
  m.impl("linear_packed", &linear_packed_op);
  m.impl("conv3x3_packed", &conv3x3_packed_op);
  m.impl("pack_conv3x3", &pack_conv3x3_op);
  m.impl("conv3x3_weight_grad", &conv3x3_weight_grad_op);
  m.impl("group_norm_relu", &group_norm_relu_op);
  m.impl("change_layout", &change_layout_op);
}

}  // namespace tcm_d2
