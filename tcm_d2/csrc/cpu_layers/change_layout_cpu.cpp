// Maps from contiguous to channels last and back: transposes of matrices.
// torch copies them element by element, five to ten times slower.

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

#include "conv_kernels.h"
#include "layers.h"

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

}  // namespace

void transpose_maps(const float* in, int64_t images, int64_t rows,
                    int64_t columns, float* out) {
  const TransposeBlock transpose_block = transpose_block_kernel();
  const int64_t strips = divide_up(columns, kTileColumns);
  at::parallel_for(0, images * strips, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t offset = i / strips * rows * columns;
      const Matrix matrix = {in + offset, out + offset, rows, columns};
      for (int64_t top = 0; top < rows; top += kTileRows) {
        transpose_tile(matrix, transpose_block, top, i % strips * kTileColumns);
      }
    }
  });
}

}  // namespace tcm_d2
