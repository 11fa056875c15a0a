// The smallest rotated boxes around quadrilaterals, on CUDA.

#include <cstdint>

#include "../cuda_launch.h"
#include "../cuda_tile.h"
#include "../geometry/quad.h"
#include "kernels.h"

namespace tcm_d2 {
namespace {

template <typename Scalar>
__global__ void __launch_bounds__(kColumns)
    minimum_area_boxes_kernel(const Scalar* quads, int64_t num_quads,
                              Scalar* boxes) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kColumns;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
       i < num_quads; i += step) {
    write_minimum_area_box(quads + 8 * i, boxes + 5 * i);
  }
}

}  // namespace

template <typename Scalar>
void minimum_area_boxes(Cuda place, const Scalar* quads, int64_t num,
                        Scalar* boxes) {
  if (num == 0) return;
  launch(place, &minimum_area_boxes_kernel<Scalar>, num_blocks(num, kColumns),
         kColumns, quads, num, boxes);
}

template void minimum_area_boxes(Cuda, const float*, int64_t, float*);
template void minimum_area_boxes(Cuda, const double*, int64_t, double*);

}  // namespace tcm_d2
