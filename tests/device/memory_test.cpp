#include "espalier/device/memory.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace espalier {
namespace {

class Memory : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    install_counting_allocator();
    at::set_num_threads(1);
  }
};

at::Tensor bytes(std::int64_t count) { return at::empty({count}, at::kByte); }

// One training step of a network with a convolution and a linear layer; it frees all tensors at its
// end.
void training_step(std::int64_t channels) {
  const at::Tensor x = at::ones({4, 1, 12, 12});
  at::Tensor kernel = at::full({channels, 1, 3, 3}, 0.1F).set_requires_grad(true);
  at::Tensor weight = at::full({10, channels * 25}, 0.1F).set_requires_grad(true);
  at::Tensor h = at::max_pool2d(at::relu(at::conv2d(x, kernel)), 2).flatten(1);
  at::Tensor loss = at::cross_entropy_loss(at::linear(h, weight), at::ones({4}, at::kLong));
  loss.backward();
  ASSERT_TRUE(kernel.grad().defined());
}

std::int64_t peak_of(const std::function<void()>& work, std::int64_t cap = 0) {
  auto account = MemoryAccount::create(cap);
  {
    MemoryScope scope(account);
    work();
  }
  EXPECT_EQ(account->held_bytes(), 0);
  return account->peak_bytes();
}

bool runs_within(std::int64_t cap, const std::function<void()>& work) {
  auto account = MemoryAccount::create(cap);
  try {
    MemoryScope scope(account);
    work();
  } catch (const c10::OutOfMemoryError&) {
    EXPECT_GT(account->refused_bytes(), 0);
    EXPECT_EQ(account->held_bytes(), 0);
    return false;
  }
  EXPECT_EQ(account->refused_bytes(), 0);
  return true;
}

TEST_F(Memory, CountsRequestedBytes) {
  auto account = MemoryAccount::create(0);
  MemoryScope scope(account);
  at::Tensor a = bytes(1000);
  EXPECT_EQ(account->held_bytes(), 1000);
  at::Tensor b = at::empty({7}, at::kFloat);
  EXPECT_EQ(account->held_bytes(), 1028);
  a.reset();
  EXPECT_EQ(account->held_bytes(), 28);
  EXPECT_EQ(account->peak_bytes(), 1028);
}

TEST_F(Memory, CapIsExactToTheByte) {
  auto account = MemoryAccount::create(1000);
  MemoryScope scope(account);
  at::Tensor a = bytes(600);
  EXPECT_THROW(bytes(401), c10::OutOfMemoryError);
  EXPECT_EQ(account->refused_bytes(), 401);
  EXPECT_EQ(account->held_bytes(), 600);
  at::Tensor b = bytes(400);
  EXPECT_EQ(account->held_bytes(), 1000);
  EXPECT_THROW(bytes(1), c10::OutOfMemoryError);
}

TEST_F(Memory, ATrainingStepRunsAtItsPeakAndNotOneByteBelow) {
  const auto step = [] { training_step(8); };
  const std::int64_t peak = peak_of(step);
  // Weights and their gradients are alive together at the end of the backward pass.
  EXPECT_GE(peak, 2 * 4 * (8 * 9 + 10 * 200));
  EXPECT_TRUE(runs_within(peak, step));
  EXPECT_FALSE(runs_within(peak - 1, step));
  EXPECT_TRUE(runs_within(peak, step)) << "a refusal leaves the next scope as it was";
}

TEST_F(Memory, PeakDependsNeitherOnRepetitionNorOnOrder) {
  const auto narrow = [] { training_step(4); };
  const auto wide = [] { training_step(16); };
  const std::int64_t narrow_peak = peak_of(narrow);
  const std::int64_t wide_peak = peak_of(wide);
  EXPECT_LT(narrow_peak, wide_peak);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(peak_of(wide), wide_peak);
    EXPECT_EQ(peak_of(narrow), narrow_peak);
  }
}

TEST_F(Memory, ScopesNestAndEachCountsItsOwn) {
  auto outer = MemoryAccount::create(100);
  auto inner = MemoryAccount::create(100);
  at::Tensor a;
  at::Tensor b;
  at::Tensor c;
  at::Tensor d;
  {
    MemoryScope outer_scope(outer);
    a = bytes(80);
    {
      MemoryScope inner_scope(inner);
      b = bytes(90);
      {
        MemoryScope none(nullptr);
        d = bytes(1000);
      }
    }
    c = bytes(20);
  }
  at::Tensor outside = bytes(1000);
  EXPECT_EQ(outer->held_bytes(), 100);
  EXPECT_EQ(inner->held_bytes(), 90);
}

TEST_F(Memory, ABlockIsReleasedAgainstTheScopeThatMadeIt) {
  auto first = MemoryAccount::create(0);
  auto second = MemoryAccount::create(0);
  at::Tensor a;
  {
    MemoryScope scope(first);
    a = bytes(64);
  }
  {
    MemoryScope scope(second);
    a.reset();
  }
  EXPECT_EQ(first->held_bytes(), 0);
  EXPECT_EQ(second->held_bytes(), 0);
  EXPECT_EQ(second->peak_bytes(), 0);
}

TEST_F(Memory, ABlockOutlivesItsAccount) {
  auto account = MemoryAccount::create(0);
  at::Tensor a;
  {
    MemoryScope scope(account);
    a = at::full({100}, 3.0F);
  }
  account.reset();
  EXPECT_EQ(a.sum().item<float>(), 300.0F);
  a.reset();  // the sanitizer build checks that the counter still existed
}

TEST_F(Memory, OtherThreadsFreeButDoNotCount) {
  auto account = MemoryAccount::create(0);
  MemoryScope scope(account);
  std::vector<at::Tensor> tensors;
  for (int i = 0; i < 64; ++i) tensors.push_back(bytes(100));
  std::thread([&] {
    at::Tensor own = bytes(5000);
    tensors.clear();
  }).join();
  EXPECT_EQ(account->held_bytes(), 0);
  EXPECT_EQ(account->peak_bytes(), 6400);
}

TEST_F(Memory, NothingLeaksOverAThousandRefusals) {
  const std::int64_t peak = peak_of([] { training_step(4); });
  auto account = MemoryAccount::create(peak / 2);
  int refused = 0;
  for (int i = 0; i < 1000; ++i) {
    try {
      MemoryScope scope(account);
      training_step(4);
    } catch (const c10::OutOfMemoryError&) {
      ++refused;
    }
    ASSERT_EQ(account->held_bytes(), 0);
  }
  EXPECT_EQ(refused, 1000);
}

TEST_F(Memory, ChargesCountLikeAllocations) {
  auto account = MemoryAccount::create(1000);
  MemoryScope scope(account);
  account->charge(700);
  EXPECT_THROW(bytes(301), c10::OutOfMemoryError);
  EXPECT_THROW(account->charge(301), c10::OutOfMemoryError);
  account->charge(-700);
  EXPECT_EQ(account->held_bytes(), 0);
  EXPECT_EQ(account->peak_bytes(), 700);
  EXPECT_EQ(bytes(1000).numel(), 1000);
}

TEST_F(Memory, DataIsAlignedAndItsOwnContext) {
  c10::Allocator* allocator = c10::GetCPUAllocator();
  auto account = MemoryAccount::create(0);
  MemoryScope scope(account);
  for (std::size_t size : {1, 63, 64, 65, 4097}) {
    c10::DataPtr data = allocator->allocate(size);
    EXPECT_EQ(data.get(), data.get_context());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data.get()) % 64, 0U);
    EXPECT_TRUE(allocator->is_simple_data_ptr(data));
  }
  void* raw = allocator->raw_allocate(123);
  EXPECT_EQ(account->held_bytes(), 123);
  std::fill_n(static_cast<char*>(raw), 123, 'x');
  allocator->raw_deallocate(raw);
  EXPECT_EQ(account->held_bytes(), 0);
}

TEST_F(Memory, EmptyAllocationsCostNothing) {
  auto account = MemoryAccount::create(1);
  MemoryScope scope(account);
  EXPECT_EQ(at::empty({0, 5}).numel(), 0);
  c10::Allocator* allocator = c10::GetCPUAllocator();
  void* raw = allocator->raw_allocate(0);
  EXPECT_EQ(raw, nullptr);
  allocator->raw_deallocate(raw);
  EXPECT_EQ(account->peak_bytes(), 0);
}

}  // namespace
}  // namespace espalier
