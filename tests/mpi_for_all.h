#pragma once
// MPI for the tests of one program, which can start it only once.

#include <gtest/gtest.h>

#include <optional>

#include "espalier/comm/environment.h"

namespace espalier {

class MpiForAll : public testing::Environment {
 public:
  void SetUp() override { mpi_.emplace(nullptr, nullptr); }
  void TearDown() override { mpi_.reset(); }
  const MpiEnvironment& get() const { return *mpi_; }

 private:
  std::optional<MpiEnvironment> mpi_;
};
inline MpiForAll* const mpi_for_all =
    dynamic_cast<MpiForAll*>(testing::AddGlobalTestEnvironment(new MpiForAll));

}  // namespace espalier
