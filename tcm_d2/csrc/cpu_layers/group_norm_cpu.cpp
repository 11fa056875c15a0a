// Group normalization of maps that lie channels last, with ReLU behind it, for
// inference. torch's kernel for this layout takes the variance as a difference
// of float32 sums over the whole map, which loses up to five digits.

#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "layers.h"

namespace tcm_d2 {
namespace {

// Cells whose sums are float32; these are added up in float64. Blocks are the
// same for any number of threads, and so are the results.
constexpr int64_t kChainCells = 32;
constexpr int64_t kBlockCells = 1024;

template <typename T>
struct Map {
  const T* cells;  // (num_cells, channels)
  int64_t num_cells;
  int64_t channels;
};

// Adds the sums of (x - pivot) and of its square over cells begin to end.
template <typename T>
void add_moments(const Map<T>& map, const float* pivot, int64_t begin,
                 int64_t end, double* moments) {
  const int64_t channels = map.channels;
  std::vector<float> chain(2 * channels);
  float* sums = chain.data();
  float* squares = sums + channels;
  for (int64_t i = begin; i < end;) {
    std::fill(chain.begin(), chain.end(), 0.0f);
    for (const int64_t stop = std::min(i + kChainCells, end); i < stop; ++i) {
      const T* row = map.cells + i * channels;
      for (int64_t c = 0; c < channels; ++c) {
        const float value = static_cast<float>(row[c]) - pivot[c];
        sums[c] += value;
        squares[c] += value * value;
      }
    }
    for (int64_t c = 0; c < 2 * channels; ++c) moments[c] += chain[c];
  }
}

// A normalized value is (x - centre) * scale + shift: from the group's mean and
// deviation.
void find_scales(const std::vector<double>& moments, const float* pivot,
                 int64_t num_cells, int64_t channels, int64_t groups,
                 const float* weight, const float* bias, double eps,
                 float* centre, float* scale, float* shift) {
  const int64_t size = channels / groups;
  const double count = static_cast<double>(num_cells);
  for (int64_t start = 0; start < channels; start += size) {
    double mean = 0.0;
    for (int64_t c = start; c < start + size; ++c) {
      mean += pivot[c] + moments[c] / count;
    }
    mean /= static_cast<double>(size);
    double variance = 0.0;
    for (int64_t c = start; c < start + size; ++c) {
      // around the group's mean: E(x - p)^2 - 2 (m - p) E(x - p) + (m - p)^2
      const double offset = mean - pivot[c];
      variance += moments[channels + c] / count -
                  2.0 * offset * moments[c] / count + offset * offset;
    }
    variance = std::max(variance / static_cast<double>(size), 0.0);
    const double inverse = 1.0 / std::sqrt(variance + eps);
    for (int64_t c = start; c < start + size; ++c) {
      scale[c] = static_cast<float>(inverse * weight[c]);
      centre[c] = static_cast<float>(mean);
      shift[c] = static_cast<float>(bias[c] +
                                    (centre[c] - mean) * inverse * weight[c]);
    }
  }
}

}  // namespace

template <typename T>
void run_group_norm(const GroupNorm<T>& job) {
  const Map<T> map = {job.x, job.cells, job.channels};
  const int64_t channels = map.channels;
  std::vector<float> values(4 * channels);
  float* pivot = values.data();
  float* centre = pivot + channels;
  float* scale = centre + channels;
  float* shift = scale + channels;
  for (int64_t c = 0; c < channels; ++c) {
    pivot[c] = static_cast<float>(map.cells[c]);
  }
  const int64_t blocks = (map.num_cells + kBlockCells - 1) / kBlockCells;
  std::vector<double> parts(blocks * 2 * channels);
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      add_moments(map, pivot, i * kBlockCells,
                  std::min((i + 1) * kBlockCells, map.num_cells),
                  parts.data() + i * 2 * channels);
    }
  });
  std::vector<double> moments(2 * channels);
  for (int64_t i = 0; i < blocks; ++i) {
    for (int64_t c = 0; c < 2 * channels; ++c) {
      moments[c] += parts[i * 2 * channels + c];
    }
  }
  find_scales(moments, pivot, map.num_cells, channels, job.groups, job.weight,
              job.bias, job.eps, centre, scale, shift);
  const float low = job.relu ? 0.0f : -INFINITY;
  at::parallel_for(
      0, map.num_cells, kChainCells, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const T* row = map.cells + i * channels;
          T* out_row = job.out + i * channels;
          for (int64_t c = 0; c < channels; ++c) {
            const float value =
                (static_cast<float>(row[c]) - centre[c]) * scale[c] + shift[c];
            // keeps NaN, as torch does
            out_row[c] = static_cast<T>(value < low ? low : value);
          }
        }
      });
}

template void run_group_norm(const GroupNorm<float>&);
template void run_group_norm(const GroupNorm<c10::BFloat16>&);

}  // namespace tcm_d2
