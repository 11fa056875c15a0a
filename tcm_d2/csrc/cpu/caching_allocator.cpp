// Memory for large CPU tensors that is kept for the next one when it is freed.
//
// The C library maps every large block anew, and the system then clears it page
// by page at the first touch: for maps of a network this costs as much as a
// cheap layer. Kept are whole blocks, up to a limit in all; the ones freed
// first are given back first.

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/alignment.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#if defined(__linux__)
#include <pthread.h>
#endif

namespace tcm_d2 {
namespace {

// Smaller blocks come from the C library's heap, which reuses them.
constexpr size_t kMinBytes = size_t(1) << 20;
// A kept block serves requests down to 8/9 of its size.
constexpr size_t kMaxWasteShare = 8;

// In front of each block; as large as the alignment, so that this stays.
struct Header {
  size_t bytes;
};
constexpr size_t kHeaderBytes = c10::gAlignment;
static_assert(sizeof(Header) <= kHeaderBytes);

Header* header_of(void* block) {
  return reinterpret_cast<Header*>(static_cast<char*>(block) - kHeaderBytes);
}

class CachingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, nullptr, &release, c10::Device(c10::DeviceType::CPU)};
    }
    void* block = bytes < kMinBytes ? nullptr : take(bytes);
    if (block == nullptr) block = make(bytes);
    return {block, block, &release, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

  void set_limit(size_t max_bytes) {
    const std::lock_guard<std::mutex> guard(mutex_);
    max_bytes_ = max_bytes;
    shrink();
  }

  size_t kept_bytes() {
    const std::lock_guard<std::mutex> guard(mutex_);
    return kept_bytes_;
  }

  std::mutex& mutex() { return mutex_; }

 private:
  static void release(void* block);

  void* take(size_t bytes) {
    const std::lock_guard<std::mutex> guard(mutex_);
    const auto found = by_size_.lower_bound({bytes, 0});
    if (found == by_size_.end() ||
        found->first.bytes > bytes + bytes / kMaxWasteShare) {
      return nullptr;
    }
    return remove(found);
  }

  void* make(size_t bytes) {
    const size_t rounded =
        (bytes + kHeaderBytes - 1) / kHeaderBytes * kHeaderBytes;
    void* memory = nullptr;
    for (int attempt = 0; attempt < 2 && memory == nullptr; ++attempt) {
      memory = std::aligned_alloc(kHeaderBytes, kHeaderBytes + rounded);
      if (memory == nullptr) {
        const std::lock_guard<std::mutex> guard(mutex_);
        while (!by_size_.empty()) destroy(remove(by_size_.begin()));
      }
    }
    TORCH_CHECK_WITH(OutOfMemoryError, memory != nullptr,
                     "not enough memory for a tensor of ", bytes, " bytes");
    static_cast<Header*>(memory)->bytes = rounded;
    return static_cast<char*>(memory) + kHeaderBytes;
  }

  void keep(void* block) {
    const size_t bytes = header_of(block)->bytes;
    if (bytes < kMinBytes) {
      destroy(block);
      return;
    }
    const std::lock_guard<std::mutex> guard(mutex_);
    by_size_.emplace(Key{bytes, ++num_kept_}, block);
    kept_bytes_ += bytes;
    shrink();
  }

  void shrink() {
    while (kept_bytes_ > max_bytes_) {
      destroy(remove(std::min_element(by_size_.begin(), by_size_.end(),
                                      [](const auto& a, const auto& b) {
                                        return a.first.order < b.first.order;
                                      })));
    }
  }

  static void destroy(void* block) { std::free(header_of(block)); }

  struct Key {
    size_t bytes;
    uint64_t order;
    bool operator<(const Key& other) const {
      return bytes != other.bytes ? bytes < other.bytes : order < other.order;
    }
  };
  using Blocks = std::map<Key, void*>;

  void* remove(Blocks::iterator at) {
    void* block = at->second;
    kept_bytes_ -= at->first.bytes;
    by_size_.erase(at);
    return block;
  }

  std::mutex mutex_;
  Blocks by_size_;
  size_t kept_bytes_ = 0;
  size_t max_bytes_ = 0;
  uint64_t num_kept_ = 0;
};

// Never destroyed: tensors may outlive everything else.
CachingAllocator& allocator() {
  static CachingAllocator* const instance = new CachingAllocator();
  return *instance;
}

void CachingAllocator::release(void* block) {
  if (block != nullptr) allocator().keep(block);
}

// A child process must not inherit a lock that another thread holds.
void survive_forks() {
#if defined(__linux__)
  pthread_atfork([] { allocator().mutex().lock(); },
                 [] { allocator().mutex().unlock(); },
                 [] { allocator().mutex().unlock(); });
#endif
}

}  // namespace
}  // namespace tcm_d2

// Called by tcm_d2/cpu/process_memory.py.
extern "C" {

void tcm_d2_keep_freed_memory(int64_t max_bytes) {
  static const bool is_installed = [] {
    c10::Allocator* instance = &tcm_d2::allocator();
    tcm_d2::survive_forks();
    c10::SetCPUAllocator(instance);
    return true;
  }();
  static_cast<void>(is_installed);
  tcm_d2::allocator().set_limit(static_cast<size_t>(max_bytes));
}

int64_t tcm_d2_kept_memory() {
  return static_cast<int64_t>(tcm_d2::allocator().kept_bytes());
}
}
