#pragma once
// Errors carry the exit status of the program and one sentence for the user that says what to do.
// A broken invariant of our own is not an Error: it is a failed ESPALIER_CHECK (status 70).

#include <stdexcept>
#include <string>
#include <utility>

#include "espalier/base/format.h"

namespace espalier {

/// The exit statuses of the program; users' scripts rely on them.
enum class Status : int {
  done = 0,
  bad_input = 2,
  data = 3,
  output = 4,
  not_finite = 5,
  no_client = 6,
  internal = 70,
  stopped = 85,
};

/// Base of every exception that is thrown on purpose.
class Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  Status status() const { return status_; }

 private:
  Status status_;
};

/// A wrong option, input file or run directory (status 2).
struct InputError : Error {
  explicit InputError(const std::string& message) : Error(Status::bad_input, message) {}
};
/// Data missing or damaged (status 3).
struct DataError : Error {
  explicit DataError(const std::string& message) : Error(Status::data, message) {}
};
/// Output or checkpoint cannot be written or read (status 4).
struct OutputError : Error {
  explicit OutputError(const std::string& message) : Error(Status::output, message) {}
};
/// The model or its loss is not finite, or every update of a window was rejected (status 5).
struct NotFiniteError : Error {
  explicit NotFiniteError(const std::string& message) : Error(Status::not_finite, message) {}
};
/// No client can answer (status 6).
struct NoClientError : Error {
  explicit NoClientError(const std::string& message) : Error(Status::no_client, message) {}
};

/// The rank that messages and failed checks name; set once after MPI_Init.
void set_message_rank(int rank);
int message_rank();

/// Throws an internal Error that names expression, rank, file and line.
[[noreturn]] void check_failed(const char* expression, const char* file, int line,
                               const std::string& detail);

}  // namespace espalier

/// For what cannot happen unless our code is wrong. The optional arguments are an fmt format and
/// its values.
#define ESPALIER_CHECK(condition, ...)                                \
  do {                                                                \
    if (!(condition)) [[unlikely]]                                    \
      ::espalier::check_failed(#condition, __FILE__, __LINE__,        \
                               ::espalier::detail_text(__VA_ARGS__)); \
  } while (false)

namespace espalier {
inline std::string detail_text() { return {}; }
template <typename... Args>
std::string detail_text(fmt::format_string<Args...> format, Args&&... args) {
  return formatted(format, std::forward<Args>(args)...);
}
}  // namespace espalier
