// Which launchers are refused, and how a process started alone is set up; MPI itself is not
// started.

#include "espalier/comm/environment.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <optional>
#include <string>

#include "espalier/base/error.h"

namespace espalier {
namespace {

constexpr const char* kVariables[] = {"SLURM_STEP_ID",  "SLURM_STEP_NUM_TASKS",
                                      "PMIX_NAMESPACE", "OMPI_COMM_WORLD_SIZE",
                                      "PMI_SIZE",       "OMPI_MCA_ess_singleton_isolated"};

/// Clears the launcher's variables for a test and puts them back.
class Launcher : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : kVariables) {
      if (const char* value = std::getenv(name)) before_[name] = value;
      unsetenv(name);
    }
  }
  void TearDown() override {
    for (const char* name : kVariables) unsetenv(name);
    for (const auto& [name, value] : before_) setenv(name.c_str(), value.c_str(), 1);
  }
  static std::optional<std::string> get(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  }

 private:
  std::map<std::string, std::string> before_;
};

TEST_F(Launcher, StepOfSeveralTasksWithoutPmixIsRefusedAndSaysWhatToDo) {
  setenv("SLURM_STEP_ID", "0", 1);
  setenv("SLURM_STEP_NUM_TASKS", "3", 1);
  try {
    check_launcher_before_init();
    FAIL() << "not refused";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("--mpi=pmix"), std::string::npos);
    EXPECT_EQ(error.status(), Status::bad_input);
  }
}

TEST_F(Launcher, StepOfOneTaskRunsAlone) {
  setenv("SLURM_STEP_ID", "0", 1);
  setenv("SLURM_STEP_NUM_TASKS", "1", 1);
  EXPECT_NO_THROW(check_launcher_before_init());
  EXPECT_EQ(get("SLURM_STEP_ID"), std::nullopt);
  EXPECT_EQ(get("OMPI_MCA_ess_singleton_isolated"), "1");
}

TEST_F(Launcher, StepStartedWithPmixOrByMpirunIsLeftAlone) {
  for (const char* name : {"PMIX_NAMESPACE", "OMPI_COMM_WORLD_SIZE"}) {
    setenv("SLURM_STEP_ID", "0", 1);
    setenv("SLURM_STEP_NUM_TASKS", "3", 1);
    setenv(name, "3", 1);
    EXPECT_NO_THROW(check_launcher_before_init()) << name;
    EXPECT_EQ(get("SLURM_STEP_ID"), "0") << name;
    unsetenv(name);
  }
}

TEST_F(Launcher, ParallelLaunchIsNotIsolatedAndAUsersSettingStays) {
  setenv("PMIX_NAMESPACE", "job", 1);
  check_launcher_before_init();
  EXPECT_EQ(get("OMPI_MCA_ess_singleton_isolated"), std::nullopt);
  unsetenv("PMIX_NAMESPACE");
  setenv("OMPI_MCA_ess_singleton_isolated", "0", 1);
  check_launcher_before_init();
  EXPECT_EQ(get("OMPI_MCA_ess_singleton_isolated"), "0");
}

TEST_F(Launcher, MoreProcessesThanMpiSeesAreRefused) {
  EXPECT_NO_THROW(check_launcher_after_init(1));
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    setenv(name, "3", 1);
    EXPECT_NO_THROW(check_launcher_after_init(3)) << name;
    EXPECT_THROW(check_launcher_after_init(1), InputError) << name;
    unsetenv(name);
  }
}

TEST_F(Launcher, LibraryVersionIsOneLine) {
  const std::string version = MpiEnvironment::library_version();
  EXPECT_FALSE(version.empty());
  EXPECT_EQ(version.find('\n'), std::string::npos);
}

}  // namespace
}  // namespace espalier
