// What lies between torch's tensors and the kernels' pointers: checks, and the
// choice of place and dtype. The public Python functions check first, with
// friendlier words; these checks guard direct calls of torch.ops.tcm_d2.
//
// Torch's headers take seconds to compile each time, so only the files
// operators.cpp include this one; kernels know no tensors.

#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <cstdint>

#include "place.h"

#if defined(TCM_D2_WITH_CUDA)
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace tcm_d2 {

inline void check_floating(const at::Tensor& values, const char* name) {
  TORCH_CHECK(
      values.scalar_type() == at::kFloat || values.scalar_type() == at::kDouble,
      name, ": expected float32 or float64, got ", values.scalar_type());
}

// That values are of the dtype and on the device of others.
inline void check_like(const at::Tensor& values, const char* name,
                       const at::Tensor& others, const char* others_name) {
  TORCH_CHECK(values.scalar_type() == others.scalar_type(), name,
              ": expected the dtype of ", others_name, ", ",
              others.scalar_type(), ", got ", values.scalar_type());
  TORCH_CHECK(values.device() == others.device(), name,
              ": expected the device of ", others_name, ", ", others.device(),
              ", got ", values.device());
}

// That there is one value for each row of others.
inline void check_vector(const at::Tensor& values, const char* name,
                         const at::Tensor& others) {
  TORCH_CHECK(values.dim() == 1 && values.size(0) == others.size(0), name,
              ": expected shape (", others.size(0), ",), got ", values.sizes());
  TORCH_CHECK(values.device() == others.device(), name, ": expected device ",
              others.device(), ", got ", values.device());
}

inline void check_integers(const at::Tensor& values, const char* name,
                           const at::Tensor& others) {
  check_vector(values, name, others);
  TORCH_CHECK(values.scalar_type() == at::kLong, name, ": expected int64, got ",
              values.scalar_type());
}

// A contiguous tensor of the kernels' Scalar, seen as pointers.
class Array {
 public:
  explicit Array(const at::Tensor& tensor) : tensor_(tensor.contiguous()) {}

  int64_t size() const { return tensor_.size(0); }

  template <typename Scalar>
  operator const Scalar*() const {
    return tensor_.const_data_ptr<Scalar>();
  }

 private:
  at::Tensor tensor_;
};

// The place of a tensor's device while it lives.
template <typename Run>
void at_place_of(const at::Tensor& tensor, const Run& run) {
#if defined(TCM_D2_WITH_CUDA)
  if (tensor.is_cuda()) {
    const c10::cuda::CUDAGuard guard(tensor.device());
    run(Cuda{c10::cuda::getCurrentCUDAStream().stream()});
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return;
  }
#endif
  run(Cpu());
}

// Calls run(place, zero) with the place of a float32 or float64 tensor, and a
// zero of its dtype.
template <typename Run>
void dispatch(const at::Tensor& tensor, const Run& run) {
  at_place_of(tensor, [&](auto place) {
    tensor.scalar_type() == at::kFloat ? run(place, float())
                                       : run(place, double());
  });
}

}  // namespace tcm_d2
