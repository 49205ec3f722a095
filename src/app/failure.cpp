#include "espalier/app/failure.h"

#include <filesystem>

#include "espalier/base/error.h"
#include "espalier/base/log.h"

namespace espalier {

Failure attempt(const std::function<void()>& work, const std::string& where) {
  try {
    work();
  } catch (const Error& error) {
    return {static_cast<int>(error.status()), error.what()};
  } catch (const std::filesystem::filesystem_error& error) {
    // The name is too long, or the folder has no permission: an error of the input.
    return {static_cast<int>(Status::bad_input),
            formatted("{} cannot be accessed: {}; give another name", error.path1().string(),
                      error.code().message())};
  } catch (const std::exception& error) {
    return {static_cast<int>(Status::internal), where + error.what()};
  }
  return {};
}

void agree(const MpiEnvironment& mpi, const Failure& failure) {
  const MpiEnvironment::Verdict verdict = mpi.agree(failure.status, failure.message);
  if (verdict.status == 0) return;
  if (mpi.rank() == 0) log_error(verdict.message);
  throw AgreedFailure{verdict.status};
}

void on_all_ranks(const MpiEnvironment& mpi, const std::function<void()>& work) {
  agree(mpi, attempt(work));
}

std::string broadcast_text(const MpiEnvironment& mpi, std::string text) {
  auto size = static_cast<std::int64_t>(text.size());
  ESPALIER_MPI(MPI_Bcast(&size, 1, MPI_INT64_T, 0, mpi.communicator()));
  text.resize(static_cast<std::size_t>(size));
  ESPALIER_MPI(MPI_Bcast(text.data(), static_cast<int>(size), MPI_CHAR, 0, mpi.communicator()));
  return text;
}

int fail_job(const MpiEnvironment& mpi, const Failure& failure,
             const std::function<void()>& clean_up) {
  set_message_rank(0);  // this rank prints for the job
  log_error(failure.message);
  if (clean_up) clean_up();
  if (mpi.size() == 1) return failure.status;
  mpi.abort_job(failure.status);
}

}  // namespace espalier
