#include "rect_kernels.h"

#include <cstring>

#include "../geometry/pack.h"

namespace tcm_d2 {
namespace {

#if defined(__GNUC__)
using Narrow = Pack<2>;  // what every x86-64 and ARM64 processor has
#else
using Narrow = double;
#endif

template <typename T>
struct Lane {
  static constexpr int kCount = sizeof(T) / sizeof(double);
};

template <typename T>
TCM_D2_HD T load(const double* values) {
  T result;
  std::memcpy(&result, values, sizeof(T));
  return result;
}

template <typename T>
TCM_D2_HD void store(T value, double* out) {
  std::memcpy(out, &value, sizeof(T));
}

template <typename T>
TCM_D2_HD Rect<T> load_rect(const RectBlock& block, int i) {
  return {load<T>(block.cx + i),     load<T>(block.cy + i),
          load<T>(block.half_w + i), load<T>(block.half_h + i),
          load<T>(block.cos + i),    load<T>(block.sin + i),
          load<T>(block.area + i)};
}

template <typename T>
TCM_D2_HD void store_grads(const BoxGrad<T>& grad, int i, GradBlock* block) {
  store(grad.cx, block->cx + i);
  store(grad.cy, block->cy + i);
  store(grad.w, block->w + i);
  store(grad.h, block->h + i);
  store(grad.angle_deg, block->angle_deg + i);
}

template <typename T>
TCM_D2_HD void make_rects(const BoxBlock& boxes, int count, RectBlock* rects) {
  for (int i = 0; i < count; i += Lane<T>::kCount) {
    const Rect<T> rect = make_rect<T>(
        load<T>(boxes.cx + i), load<T>(boxes.cy + i), load<T>(boxes.w + i),
        load<T>(boxes.h + i), load<T>(boxes.angle_deg + i));
    store(rect.cx, rects->cx + i);
    store(rect.cy, rects->cy + i);
    store(rect.half_w, rects->half_w + i);
    store(rect.half_h, rects->half_h + i);
    store(rect.cos, rects->cos + i);
    store(rect.sin, rects->sin + i);
    store(rect.area, rects->area + i);
  }
}

template <typename T>
TCM_D2_HD void overlaps(const RectBlock& rects1, const RectBlock& rects2,
                        int count, bool iof, double* out) {
  for (int i = 0; i < count; i += Lane<T>::kCount) {
    store(overlap(load_rect<T>(rects1, i), load_rect<T>(rects2, i), iof),
          out + i);
  }
}

template <typename T>
TCM_D2_HD void overlap_grads(const RectBlock& rects1, const RectBlock& rects2,
                             int count, const double* scale, GradBlock* grads1,
                             GradBlock* grads2) {
  for (int i = 0; i < count; i += Lane<T>::kCount) {
    const PairGrad<T> grads = overlap_grad(
        load_rect<T>(rects1, i), load_rect<T>(rects2, i), load<T>(scale + i));
    store_grads(grads.first, i, grads1);
    store_grads(grads.second, i, grads2);
  }
}

// Plain loops, which the compiler puts into vectors.
TCM_D2_HD void hull_flags(const Hull& hull, const HullArrays& hulls,
                          int64_t begin, int64_t count, uint8_t* flags) {
  const float* x_low = hulls.x_low.data() + begin;
  const float* x_high = hulls.x_high.data() + begin;
  const float* y_low = hulls.y_low.data() + begin;
  const float* y_high = hulls.y_high.data() + begin;
  for (int64_t i = 0; i < count; ++i) {
    flags[i] = (hull.x_low <= x_high[i]) & (x_low[i] <= hull.x_high) &
               (hull.y_low <= y_high[i]) & (y_low[i] <= hull.y_high);
  }
}

// The kernels with vectors of type T, compiled for an instruction set.
#define TCM_D2_KERNELS(Name, T, target)                                        \
  struct Name {                                                                \
    target static void rects(const BoxBlock& boxes, int count,                 \
                             RectBlock* out) {                                 \
      make_rects<T>(boxes, count, out);                                        \
    }                                                                          \
    target static void values(const RectBlock& rects1,                         \
                              const RectBlock& rects2, int count, bool iof,    \
                              double* out) {                                   \
      overlaps<T>(rects1, rects2, count, iof, out);                            \
    }                                                                          \
    target static void grads(const RectBlock& rects1, const RectBlock& rects2, \
                             int count, const double* scale,                   \
                             GradBlock* grads1, GradBlock* grads2) {           \
      overlap_grads<T>(rects1, rects2, count, scale, grads1, grads2);          \
    }                                                                          \
    target static void flags(const Hull& hull, const HullArrays& hulls,        \
                             int64_t begin, int64_t count, uint8_t* out) {     \
      hull_flags(hull, hulls, begin, count, out);                              \
    }                                                                          \
    static constexpr RectKernels kTable = {&rects, &values, &grads, &flags};   \
  }

TCM_D2_KERNELS(NarrowKernels, Narrow, );

// AVX-512 has been tried: no faster, for its masks are slow in these vectors.
#if defined(__GNUC__) && defined(__x86_64__)
TCM_D2_KERNELS(Avx2Kernels, Pack<4>, __attribute__((target("avx2"))));
#endif

}  // namespace

const RectKernels& rect_kernels() {
#if defined(__GNUC__) && defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
  if (has_avx2) {
    return Avx2Kernels::kTable;
  }
#endif
  return NarrowKernels::kTable;
}

}  // namespace tcm_d2
