// Runs CUDA kernels on the CPU, one thread at a time, to test their logic where
// there is no GPU: indices, tiles, barriers, lists. Not their speed, and not
// what only happens when threads really run at once.
//
// Each thread of a block is a fiber that runs up to the next __syncthreads() or
// its end. Blocks run one after the other, so shared memory may be static.

#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "place.h"

#define TCM_D2_CUDA_EMULATION
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)

struct dim3 {
  unsigned x, y, z;

  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr size_t kStackBytes = 256 * 1024;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool is_done = false;
};

inline ucontext_t scheduler;
inline std::vector<Fiber> fibers;
inline unsigned running = 0;
inline std::function<void()> body;

inline void run_body() {
  body();
  fibers[running].is_done = true;
  swapcontext(&fibers[running].context, &scheduler);
}

inline void start(Fiber* fiber) {
  getcontext(&fiber->context);
  fiber->stack.resize(kStackBytes);
  fiber->context.uc_stack.ss_sp = fiber->stack.data();
  fiber->context.uc_stack.ss_size = fiber->stack.size();
  fiber->context.uc_link = nullptr;
  fiber->is_done = false;
  makecontext(&fiber->context, run_body, 0);
}

// Runs a block: all its threads up to a barrier, then on to the next.
inline void run_block(unsigned num_threads) {
  fibers.resize(num_threads);
  for (Fiber& fiber : fibers) start(&fiber);
  for (bool any_left = true; any_left;) {
    any_left = false;
    unsigned num_ended = 0, num_waiting = 0;
    for (running = 0; running < num_threads; ++running) {
      if (fibers[running].is_done) continue;
      threadIdx = {running, 0, 0};
      swapcontext(&scheduler, &fibers[running].context);
      if (fibers[running].is_done) {
        ++num_ended;
      } else {
        ++num_waiting;
        any_left = true;
      }
    }
    if (num_ended > 0 && num_waiting > 0) {
      std::fprintf(stderr, "%u threads wait at a barrier, %u have ended\n",
                   num_waiting, num_ended);
      std::abort();
    }
  }
}

}  // namespace emulation

namespace tcm_d2 {

// Small ones make the kernels go round their loops.
inline int64_t kMaxGridX = int64_t(1) << 30;
inline int64_t kMaxGridY = 65535;

template <typename... Parameters, typename... Arguments>
void launch(Cuda, void (*kernel)(Parameters...), dim3 grid, unsigned threads,
            Arguments... arguments) {
  emulation::body = [=] { kernel(arguments...); };
  gridDim = grid;
  blockDim = {threads, 1, 1};
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      blockIdx = {x, y, 0};
      emulation::run_block(threads);
    }
  }
}

}  // namespace tcm_d2

inline void __syncthreads() {
  using namespace emulation;
  const unsigned mine = running;
  swapcontext(&fibers[mine].context, &scheduler);
}

template <typename T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address = before + value;
  return before;
}

template <typename T>
T atomicOr(T* address, T value) {
  const T before = *address;
  *address = before | value;
  return before;
}

inline int __popcll(unsigned long long word) {
  return __builtin_popcountll(word);
}
