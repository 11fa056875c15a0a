// Where a kernel runs; kernels for both places are overloads.

#pragma once

namespace tcm_d2 {

struct Cpu {};

// On the current CUDA device; returns before the work is done.
struct Cuda {
  void* stream;  // a cudaStream_t: those who only pass it on need no CUDA
};

}  // namespace tcm_d2
