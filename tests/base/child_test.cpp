// Work in a child process: its text and its errors arrive, and whatever ends it is a sentence.

#include "espalier/base/child.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace espalier {
namespace {

constexpr ChildLimits kSmall{1, std::int64_t{64} << 20};

std::string run(const std::function<std::string()>& work) {
  return in_child("some/file.h5", Status::data, kSmall, work);
}

std::string refusal(const std::function<std::string()>& work) {
  try {
    run(work);
  } catch (const DataError& error) {
    return error.what();
  }
  return "nothing is thrown";
}

TEST(Child, GivesTheTextOfItsWork) {
  EXPECT_EQ(run([] { return std::string(); }), "");
  std::string large(3'000'000, 'a');  // more than a pipe holds
  large[1'234'567] = '\0';
  large.back() = '\xff';
  EXPECT_EQ(run([&] { return large; }), large);
}

TEST(Child, ChangesNothingButSharedMemory) {
  void* const shared =
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  int own = 3;
  run([&] {
    own = 4;
    std::strcpy(static_cast<char*>(shared), "seen");
    std::printf("not seen");
    return std::string();
  });
  EXPECT_EQ(own, 3);
  EXPECT_STREQ(static_cast<char*>(shared), "seen");
  munmap(shared, 4096);
}

TEST(Child, ErrorsKeepStatusAndSentence) {
  EXPECT_EQ(refusal([]() -> std::string { throw DataError("x has no rows"); }), "x has no rows");
  EXPECT_THROW(run([]() -> std::string { throw InputError("give one"); }), InputError);
  EXPECT_THROW(run([]() -> std::string { throw OutputError("is no run"); }), OutputError);
  try {
    run([]() -> std::string { throw std::out_of_range("of a map"); });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::internal);
    EXPECT_STREQ(error.what(), "of a map");
  }
}

TEST(Child, ACrashIsASentence) {
  const std::string segmentation = refusal([]() -> std::string {
    raise(SIGSEGV);
    return "";
  });
  EXPECT_EQ(segmentation, "some/file.h5 is damaged: reading it crashes the library (signal 11)");
  EXPECT_NE(refusal([]() -> std::string { std::abort(); }).find("(signal 6)"), std::string::npos);
  EXPECT_NE(refusal([]() -> std::string { std::_Exit(0); }).find("crashes"), std::string::npos);
}

TEST(Child, WorkWithoutAnEndIsASentence) {
  EXPECT_EQ(refusal([]() -> std::string {
              for (std::atomic<int> i = 0;; ++i) {
              }
            }),
            "some/file.h5 is damaged: reading it takes more time than its size explains");
}

TEST(Child, MemoryBeyondTheLimitIsASentence) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer ends a process that has no memory left";
#endif
  const std::string expected =
      "some/file.h5 is damaged: reading it takes more memory than its size explains";
  EXPECT_EQ(refusal([] { return std::string(std::size_t{256} << 20, 'a'); }), expected);
  EXPECT_EQ(refusal([] { return std::string(std::string().max_size() + 1, 'a'); }), expected);
  std::size_t most = std::size_t{16} << 20;
  EXPECT_EQ(run([&] { return std::string(most, 'a'); }).size(), most);
}

TEST(Child, LimitsGrowWithTheContent) {
  EXPECT_GE(limits_for(0).cpu_s, 1);
  EXPECT_GT(limits_for(50'000'000).cpu_s, limits_for(0).cpu_s);
  EXPECT_GE(limits_for(std::int64_t{3} << 30).memory_bytes, std::int64_t{12} << 30);
}

}  // namespace
}  // namespace espalier
