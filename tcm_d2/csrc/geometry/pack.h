// Several doubles handled at once, by the vector types of GCC and clang. The
// geometry's templates take a Pack wherever they take a double.

#pragma once

#include "rotated.h"

#if defined(__GNUC__)

namespace tcm_d2 {

#define TCM_D2_PACKED inline __attribute__((always_inline))

template <int N>
struct Lanes;
template <>
struct Lanes<2> {
  typedef double Doubles __attribute__((vector_size(16)));
  typedef long long Bits __attribute__((vector_size(16)));
};
template <>
struct Lanes<4> {
  typedef double Doubles __attribute__((vector_size(32)));
  typedef long long Bits __attribute__((vector_size(32)));
};
template <>
struct Lanes<8> {
  typedef double Doubles __attribute__((vector_size(64)));
  typedef long long Bits __attribute__((vector_size(64)));
};

// All bits of a lane are set where it is true.
template <int N>
struct PackMask {
  using Bits = typename Lanes<N>::Bits;
  Bits bits;

  friend TCM_D2_PACKED PackMask operator&(PackMask a, PackMask b) {
    return {a.bits & b.bits};
  }
  friend TCM_D2_PACKED PackMask operator|(PackMask a, PackMask b) {
    return {a.bits | b.bits};
  }
};

template <int N>
struct Pack {
  using Vector = typename Lanes<N>::Doubles;
  using Mask = PackMask<N>;
  using Bits = typename Mask::Bits;
  Vector lanes;

  Pack() = default;
  TCM_D2_PACKED Pack(Vector values) : lanes(values) {}
  TCM_D2_PACKED explicit Pack(double value) : lanes(value - Vector{}) {}

  TCM_D2_PACKED Pack operator-() const { return {-lanes}; }
  friend TCM_D2_PACKED Pack operator+(Pack a, Pack b) {
    return {a.lanes + b.lanes};
  }
  friend TCM_D2_PACKED Pack operator-(Pack a, Pack b) {
    return {a.lanes - b.lanes};
  }
  friend TCM_D2_PACKED Pack operator*(Pack a, Pack b) {
    return {a.lanes * b.lanes};
  }
  friend TCM_D2_PACKED Pack operator/(Pack a, Pack b) {
    return {a.lanes / b.lanes};
  }
  friend TCM_D2_PACKED Mask operator<(Pack a, Pack b) {
    return {(Bits)(a.lanes < b.lanes)};
  }
  friend TCM_D2_PACKED Mask operator>(Pack a, Pack b) {
    return {(Bits)(a.lanes > b.lanes)};
  }
  friend TCM_D2_PACKED Mask operator<=(Pack a, Pack b) {
    return {(Bits)(a.lanes <= b.lanes)};
  }
  friend TCM_D2_PACKED Mask operator>=(Pack a, Pack b) {
    return {(Bits)(a.lanes >= b.lanes)};
  }
  friend TCM_D2_PACKED Mask operator==(Pack a, Pack b) {
    return {(Bits)(a.lanes == b.lanes)};
  }
};

template <int N>
TCM_D2_PACKED Pack<N> select(PackMask<N> condition, Pack<N> yes, Pack<N> no) {
  return {condition.bits ? yes.lanes : no.lanes};
}

// As single instructions where the processor has them.
template <int N>
TCM_D2_PACKED Pack<N> smaller(Pack<N> a, Pack<N> b) {
  return {a.lanes < b.lanes ? a.lanes : b.lanes};
}

template <int N>
TCM_D2_PACKED Pack<N> larger(Pack<N> a, Pack<N> b) {
  return {a.lanes > b.lanes ? a.lanes : b.lanes};
}

template <int N>
TCM_D2_PACKED Pack<N> absolute(Pack<N> value) {
  using Bits = typename Pack<N>::Bits;
  using Vector = typename Pack<N>::Vector;
  const Bits keep = (Bits{} - 1) ^ ((Bits{} + 1) << 63);
  return {(Vector)((Bits)value.lanes & keep)};
}

template <int N>
TCM_D2_PACKED bool any(PackMask<N> condition) {
  long long bits = 0;
  for (int i = 0; i < N; ++i) bits |= condition.bits[i];
  return bits != 0;
}

template <int N>
TCM_D2_PACKED bool all(PackMask<N> condition) {
  long long bits = -1;
  for (int i = 0; i < N; ++i) bits &= condition.bits[i];
  return bits != 0;
}

template <int N>
TCM_D2_PACKED Pack<N> without_turns(Pack<N> angle_deg) {
  constexpr double kFew = 1099511627776.0;
  if (any(absolute(angle_deg) >= Pack<N>(kFew))) {
    for (int i = 0; i < N; ++i) {
      angle_deg.lanes[i] = without_turns(angle_deg.lanes[i]);
    }
  }
  return angle_deg;
}

}  // namespace tcm_d2

#endif  // __GNUC__
