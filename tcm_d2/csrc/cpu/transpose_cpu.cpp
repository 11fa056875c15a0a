// Maps from contiguous to channels last and back: transposes of matrices.
// torch copies them element by element, five to ten times slower.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>

#include "conv_kernels.h"

namespace tcm_d2 {
namespace {

// Blocks of a tile: whole cache lines are read and written.
constexpr int64_t kTileRows = 2 * kBlockSide;
constexpr int64_t kTileColumns = 4 * kBlockSide;

struct Matrix {
  const float* in;  // (rows, columns)
  float* out;       // (columns, rows)
  int64_t rows;
  int64_t columns;
};

void transpose_tile(const Matrix& matrix, TransposeBlock transpose_block,
                    int64_t top, int64_t left) {
  const int64_t bottom = std::min(top + kTileRows, matrix.rows);
  const int64_t right = std::min(left + kTileColumns, matrix.columns);
  for (int64_t x = left; x < right; x += kBlockSide) {
    for (int64_t y = top; y < bottom; y += kBlockSide) {
      if (x + kBlockSide <= right && y + kBlockSide <= bottom) {
        transpose_block(matrix.in + y * matrix.columns + x, matrix.columns,
                        matrix.out + x * matrix.rows + y, matrix.rows);
        continue;
      }
      for (int64_t j = x; j < std::min(x + kBlockSide, right); ++j) {
        for (int64_t i = y; i < std::min(y + kBlockSide, bottom); ++i) {
          matrix.out[j * matrix.rows + i] = matrix.in[i * matrix.columns + j];
        }
      }
    }
  }
}

at::Tensor change_layout_cpu(const at::Tensor& x, bool channels_last) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat,
              "x: expected float32 of shape (N, C, H, W), got ",
              x.scalar_type(), " ", x.sizes());
  const auto layout = channels_last ? at::MemoryFormat::ChannelsLast
                                    : at::MemoryFormat::Contiguous;
  const at::Tensor maps =
      x.contiguous(channels_last ? at::MemoryFormat::Contiguous
                                 : at::MemoryFormat::ChannelsLast);
  at::Tensor out = at::empty(x.sizes(), x.options().memory_format(layout));
  const int64_t cells = x.size(2) * x.size(3);
  const int64_t rows = channels_last ? x.size(1) : cells;
  const int64_t columns = channels_last ? cells : x.size(1);
  if (out.numel() == 0) return out;
  const float* in = maps.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const TransposeBlock transpose_block = transpose_block_kernel();
  const int64_t strips = (columns + kTileColumns - 1) / kTileColumns;
  at::parallel_for(0, x.size(0) * strips, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t offset = i / strips * rows * columns;
      const Matrix matrix = {in + offset, to + offset, rows, columns};
      for (int64_t top = 0; top < rows; top += kTileRows) {
        transpose_tile(matrix, transpose_block, top, i % strips * kTileColumns);
      }
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(tcm_d2, CPU, m) {
  m.impl("change_layout", &change_layout_cpu);
}

}  // namespace tcm_d2
