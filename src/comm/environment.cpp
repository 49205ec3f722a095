#include "espalier/comm/environment.h"

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "espalier/base/error.h"

namespace espalier {
namespace {

/// The value of an environment variable as a number; 0 if it is unset or not a number.
long number_from_environment(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::strtol(text, nullptr, 10);
}

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) length = 0;
  throw Error(Status::internal,
              formatted("rank {}: {} failed: {}", message_rank(), call,
                        std::string(text.data(), static_cast<std::size_t>(length))));
}

void check_launcher_before_init() {
  const bool has_pmix = std::getenv("PMIX_NAMESPACE") != nullptr;
  const bool has_mpirun = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr;
  if (std::getenv("SLURM_STEP_ID") != nullptr && !has_pmix && !has_mpirun) {
    if (const long tasks = number_from_environment("SLURM_STEP_NUM_TASKS"); tasks > 1) {
      throw InputError(formatted(
          "srun started {} tasks that cannot see each other; start them with srun --mpi=pmix",
          tasks));
    }
    // Without this, Open MPI would regard the step as a parallel launch without PMIx, and abort.
    unsetenv("SLURM_STEP_ID");
  }
  if (has_pmix) return;
  // In a process without mpirun, Open MPI starts a helper daemon, which needs ssh; an isolated
  // process starts none. All isolated processes of a user use the same session folder, which one
  // may remove while another starts; none of them needs it. Settings of the user are kept.
  setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
  setenv("OMPI_MCA_orte_create_session_dirs", "0", 0);
}

void check_launcher_after_init(int world_size) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    if (const long started = number_from_environment(name); started > world_size) {
      throw InputError(
          formatted("the launcher started {} processes ({}) but MPI sees {}; use the mpirun of "
                    "the MPI this program "
                    "was built with ({}), or srun --mpi=pmix",
                    started, name, world_size, MpiEnvironment::library_version()));
    }
  }
}

MpiEnvironment::MpiEnvironment(int* argc, char*** argv) {
  check_launcher_before_init();
  int level = 0;
  ESPALIER_MPI(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &level));
  try {
    ESPALIER_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    ESPALIER_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
    ESPALIER_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size_));
    set_message_rank(rank_);
    check_launcher_after_init(size_);
    if (level < MPI_THREAD_FUNNELED) {
      throw InputError(
          "this MPI library cannot be used by a program with threads (MPI_THREAD_FUNNELED); "
          "use one built with thread support");
    }
    ESPALIER_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &communicator_));
    ESPALIER_MPI(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN));
    doorbell_.emplace(communicator_);
  } catch (...) {
    MPI_Finalize();
    throw;
  }
}

MpiEnvironment::~MpiEnvironment() {
  // Nothing can be done about a failure here, and destructors never throw.
  doorbell_.reset();
  if (communicator_ != MPI_COMM_NULL) MPI_Comm_free(&communicator_);
  MPI_Finalize();
}

MpiEnvironment::Verdict MpiEnvironment::agree(int status, const std::string& message) const {
  Verdict verdict{status, rank_, message};
  const int mine = status != 0 ? rank_ : size_;
  int lowest = size_;
  ESPALIER_MPI(MPI_Allreduce(&mine, &lowest, 1, MPI_INT, MPI_MIN, communicator_));
  if (lowest == size_) return {};
  verdict.rank = lowest;
  std::array<int, 2> header{status, static_cast<int>(message.size())};
  ESPALIER_MPI(MPI_Bcast(header.data(), 2, MPI_INT, lowest, communicator_));
  verdict.status = header[0];
  verdict.message.resize(static_cast<std::size_t>(header[1]));
  ESPALIER_MPI(MPI_Bcast(verdict.message.data(), header[1], MPI_CHAR, lowest, communicator_));
  return verdict;
}

MpiEnvironment::ClockOffset MpiEnvironment::clock_offset() const {
  constexpr int kRoundTrips = 20;
  const auto now = [] {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::steady_clock::now().time_since_epoch());
  };
  ClockOffset best{std::chrono::nanoseconds{0}, std::chrono::nanoseconds::max()};
  if (rank_ == 0) best.error = std::chrono::nanoseconds{0};
  for (int peer = 1; peer < size_; ++peer) {
    if (rank_ != 0 && rank_ != peer) continue;
    for (int i = 0; i < kRoundTrips; ++i) {
      std::int64_t theirs = 0;
      if (rank_ == 0) {
        ESPALIER_MPI(MPI_Recv(nullptr, 0, MPI_BYTE, peer, 0, communicator_, MPI_STATUS_IGNORE));
        theirs = now().count();
        ESPALIER_MPI(MPI_Send(&theirs, 1, MPI_INT64_T, peer, 0, communicator_));
      } else {
        const auto sent = now();
        ESPALIER_MPI(MPI_Send(nullptr, 0, MPI_BYTE, 0, 0, communicator_));
        ESPALIER_MPI(MPI_Recv(&theirs, 1, MPI_INT64_T, 0, 0, communicator_, MPI_STATUS_IGNORE));
        const auto half = (now() - sent) / 2;
        if (half < best.error) best = {std::chrono::nanoseconds{theirs} - sent - half, half};
      }
    }
  }
  return best;
}

void MpiEnvironment::abort_job(int status) const {
  // MPI_Abort ends the process without flushing, and the error message may still be in a buffer.
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, status);
  std::_Exit(status);
}

std::string MpiEnvironment::library_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  ESPALIER_MPI(MPI_Get_library_version(text.data(), &length));
  const std::string all(text.data(), static_cast<std::size_t>(length));
  return all.substr(0, all.find_first_of(",\n"));
}

}  // namespace espalier
