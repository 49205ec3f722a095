#include "espalier/device/memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <limits>
#include <utility>

#include "espalier/base/error.h"

namespace espalier {
namespace {

// LibTorch and oneDNN expect data at multiples of 64 bytes; a header of the same size keeps that.
constexpr std::size_t kAlignment = 64;

// Counts are atomic because the thread that frees a block may not be the one that allocated it.
class Counter {
 public:
  explicit Counter(std::int64_t cap_bytes) : cap_(cap_bytes) {}

  void add(std::int64_t bytes) {
    std::int64_t held = held_.load(std::memory_order_relaxed);
    do {
      if (cap_ > 0 && bytes > cap_ - held) refuse(bytes, held);
    } while (!held_.compare_exchange_weak(held, held + bytes, std::memory_order_relaxed));
    const std::int64_t now = held + bytes;
    std::int64_t peak = peak_.load(std::memory_order_relaxed);
    while (now > peak && !peak_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
    }
  }
  void remove(std::int64_t bytes) { held_.fetch_sub(bytes, std::memory_order_relaxed); }

  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void release() {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  std::int64_t held() const { return held_.load(std::memory_order_relaxed); }
  std::int64_t peak() const { return peak_.load(std::memory_order_relaxed); }
  std::int64_t cap() const { return cap_; }
  std::int64_t refused() const { return refused_.load(std::memory_order_relaxed); }

 private:
  // Only release() may destroy it: blocks point here.
  ~Counter() = default;

  [[noreturn]] void refuse(std::int64_t bytes, std::int64_t held) {
    std::int64_t none = 0;
    refused_.compare_exchange_strong(none, bytes, std::memory_order_relaxed);
    throw c10::OutOfMemoryError(
        formatted("out of emulated memory: {} bytes requested, {} of {} in use", bytes, held, cap_),
        /*backtrace=*/nullptr, /*caller=*/nullptr);
  }

  const std::int64_t cap_;
  std::atomic<std::int64_t> held_{0};
  std::atomic<std::int64_t> peak_{0};
  std::atomic<std::int64_t> refused_{0};
  std::atomic<std::int64_t> references_{1};
};

class CountedAccount final : public MemoryAccount {
 public:
  explicit CountedAccount(std::int64_t cap_bytes) : counter_(new Counter(cap_bytes)) {}
  ~CountedAccount() override { counter_->release(); }
  CountedAccount(const CountedAccount&) = delete;
  CountedAccount& operator=(const CountedAccount&) = delete;

  std::int64_t held_bytes() const override { return counter_->held(); }
  std::int64_t peak_bytes() const override { return counter_->peak(); }
  std::int64_t cap_bytes() const override { return counter_->cap(); }
  std::int64_t refused_bytes() const override { return counter_->refused(); }
  void charge(std::int64_t bytes) override {
    if (bytes >= 0) {
      counter_->add(bytes);
    } else {
      counter_->remove(-bytes);
    }
  }
  Counter* counter() const { return counter_; }

 private:
  Counter* counter_;
};

thread_local MemoryAccount* current_account = nullptr;

Counter* current_counter() {
  return current_account ? static_cast<CountedAccount*>(current_account)->counter() : nullptr;
}

struct Header {
  Counter* counter;  // null: made outside any scope
  std::int64_t bytes;
};
static_assert(sizeof(Header) <= kAlignment);

void free_block(void* data) {
  if (!data) return;
  void* block = static_cast<char*>(data) - kAlignment;
  const Header header = *static_cast<Header*>(block);
  std::free(block);
  if (header.counter) {
    header.counter->remove(header.bytes);
    header.counter->release();
  }
}

void* make_block(std::size_t bytes) {
  constexpr std::size_t kLargest = std::numeric_limits<std::int64_t>::max() - kAlignment;
  if (bytes > kLargest) {
    throw Error(Status::internal, formatted("a tensor of {} bytes was requested", bytes));
  }
  Counter* counter = current_counter();
  if (counter) counter->add(static_cast<std::int64_t>(bytes));
  void* block = nullptr;
  if (posix_memalign(&block, kAlignment, bytes + kAlignment) != 0) {
    if (counter) counter->remove(static_cast<std::int64_t>(bytes));
    // Not c10::OutOfMemoryError, which means that the emulated device is out of memory, an outcome
    // that the run records.
    throw InputError(formatted(
        "this machine has no {} bytes left: use fewer ranks per machine or a smaller model",
        bytes));
  }
  if (counter) counter->retain();
  *static_cast<Header*>(block) = {counter, static_cast<std::int64_t>(bytes)};
  return static_cast<char*>(block) + kAlignment;
}

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    void* data = bytes == 0 ? nullptr : make_block(bytes);
    return {data, data, &free_block, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

}  // namespace

void install_counting_allocator() {
  // Every step allocates and frees tensors of megabytes. By default the system would map, clear and
  // unmap each of them: up to 4 % of a training step.
  constexpr int kKeptBytes = 1 << 29;
  mallopt(M_MMAP_THRESHOLD, kKeptBytes);
  mallopt(M_TRIM_THRESHOLD, kKeptBytes);
  // Never destroyed: tensors may be freed while the process exits.
  static CountingAllocator* allocator = new CountingAllocator;
  constexpr std::uint8_t kAbovePlainAllocators = 1;
  c10::SetCPUAllocator(allocator, kAbovePlainAllocators);
}

std::shared_ptr<MemoryAccount> MemoryAccount::create(std::int64_t cap_bytes) {
  return std::make_shared<CountedAccount>(cap_bytes);
}

std::shared_ptr<const void> charge_scope(std::int64_t bytes) {
  Counter* const counter = current_counter();
  if (counter == nullptr) return nullptr;
  counter->add(bytes);
  counter->retain();
  return {counter, [bytes](Counter* charged) {
            charged->remove(bytes);
            charged->release();
          }};
}

MemoryScope::MemoryScope(std::shared_ptr<MemoryAccount> account)
    : account_(std::move(account)), previous_(current_account) {
  current_account = account_.get();
}

MemoryScope::~MemoryScope() { current_account = previous_; }

}  // namespace espalier
