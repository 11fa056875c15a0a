// Orders scores on the CPU by a radix sort, several times as fast as a stable
// argsort.

#include <cmath>
#include <cstring>

#include "kernels.h"

namespace tcm_d2 {
namespace {

// Greater scores have smaller keys. As in torch's sort, NaN is the greatest
// number and both zeros are equal.
uint32_t descending_key(float score) {
  if (std::isnan(score)) return 0;
  score += 0.0f;  // -0 becomes 0
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  constexpr uint32_t kSign = uint32_t(1) << 31;
  return bits & kSign ? bits : ~bits & ~kSign;
}

}  // namespace

std::vector<int64_t> score_order(Cpu, const float* scores, int64_t num,
                                 std::optional<float> threshold) {
  constexpr int kDigits = 3, kBits = 11;
  constexpr uint32_t kValues = 1 << kBits;
  struct Entry {
    uint32_t key, index;
  };
  std::vector<Entry> entries, sorted;
  entries.reserve(num);
  std::vector<uint32_t> counts(kDigits * kValues, 0);
  for (int64_t i = 0; i < num; ++i) {
    if (threshold.has_value() && !(scores[i] > *threshold)) continue;
    const uint32_t key = descending_key(scores[i]);
    entries.push_back({key, static_cast<uint32_t>(i)});
    for (int digit = 0; digit < kDigits; ++digit) {
      ++counts[digit * kValues + (key >> digit * kBits) % kValues];
    }
  }
  sorted.resize(entries.size());
  for (int digit = 0; digit < kDigits; ++digit) {
    uint32_t* starts = &counts[digit * kValues];
    uint32_t total = 0;
    for (uint32_t value = 0; value < kValues; ++value) {
      const uint32_t count = starts[value];
      starts[value] = total;
      total += count;
    }
    for (const Entry& entry : entries) {
      sorted[starts[(entry.key >> digit * kBits) % kValues]++] = entry;
    }
    entries.swap(sorted);
  }
  std::vector<int64_t> order(entries.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = entries[i].index;
  return order;
}

}  // namespace tcm_d2
