// The smallest rotated boxes around quadrilaterals, on the CPU.

#include <ATen/Parallel.h>

#include "../geometry/quad.h"
#include "kernels.h"

namespace tcm_d2 {

template <typename Scalar>
void minimum_area_boxes(Cpu, const Scalar* quads, int64_t num, Scalar* boxes) {
  constexpr int64_t kMinQuadsPerThread = 1024;  // so that starting it pays
  at::parallel_for(0, num, kMinQuadsPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      write_minimum_area_box(quads + 8 * i, boxes + 5 * i);
    }
  });
}

template void minimum_area_boxes(Cpu, const float*, int64_t, float*);
template void minimum_area_boxes(Cpu, const double*, int64_t, double*);

}  // namespace tcm_d2
