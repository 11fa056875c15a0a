// Tiles of Winograd's algorithm on maps, and memory that threads keep.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "conv_kernels.h"

namespace tcm_d2 {

constexpr int64_t kAlignment = 64;  // bytes of a cache line

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Memory that a thread keeps from call to call.
inline float* scratch(int64_t count) {
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  thread_local std::unique_ptr<float, Free> memory;
  thread_local int64_t capacity = 0;
  if (capacity < count) {
    memory.reset();
    capacity = divide_up(count * sizeof(float), kAlignment) * kAlignment /
               static_cast<int64_t>(sizeof(float));
    memory.reset(static_cast<float*>(
        std::aligned_alloc(kAlignment, capacity * sizeof(float))));
    if (memory == nullptr) {
      capacity = 0;
      throw std::bad_alloc();
    }
  }
  return memory.get();
}

// Maps (images, height, width, channels) cut into tiles of 4x4 cells.
template <typename T>
struct TiledMaps {
  T* cells;
  int64_t images;
  int64_t height;
  int64_t width;
  int64_t channels;

  int64_t tiles_high() const { return divide_up(height, kTileOut); }
  int64_t tiles_wide() const { return divide_up(width, kTileOut); }
  int64_t num_tiles() const { return images * tiles_high() * tiles_wide(); }

  // The cells of a tile with a border around it, row by row; outside of the map
  // they are what is given for it.
  template <int kBorder>
  void find(int64_t tile, T* outside, T** cells_of_tile) const {
    constexpr int kSide = kTileOut + 2 * kBorder;
    const int64_t row = tile / tiles_wide();
    const int64_t image = row / tiles_high();
    const int64_t top = row % tiles_high() * kTileOut - kBorder;
    const int64_t left = tile % tiles_wide() * kTileOut - kBorder;
    for (int64_t y = top; y < top + kSide; ++y) {
      for (int64_t x = left; x < left + kSide; ++x) {
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        *cells_of_tile++ =
            inside ? cells + ((image * height + y) * width + x) * channels
                   : outside;
      }
    }
  }
};

}  // namespace tcm_d2
