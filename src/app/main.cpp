// Espalier: train large models together on many weak machines. The steps of the program:
//   1. read the command                        (this file)
//   2. read the input file                     (app/run.cpp, config)
//   3. build the same experiment on every rank (train/experiment.h)
//   4. serve on rank 0, work on the others     (engine/driver.cpp, and the method's protocol)
//   5. write model and records into HDF5       (record)

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "espalier/app/commands.h"
#include "espalier/app/help.h"
#include "espalier/base/error.h"
#include "espalier/base/log.h"
#include "espalier/base/random.h"
#include "espalier/method/register.h"

namespace {

/// Opens standard input, output and error if the launcher closed them. Otherwise a file that is
/// opened later would get one of their numbers, and the program's messages.
void open_standard_streams() {
  int file = 0;
  do {
    file = open("/dev/null", O_RDWR);
  } while (file >= 0 && file <= STDERR_FILENO);
  if (file >= 0) close(file);
}

/// A text that is written to a full disk must not look whole to a script. What `run` prints is also
/// in its log.
int checked(int status) {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    throw espalier::OutputError("the output cannot be written; is its disk full?");
  }
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_streams();
  // A file above the limit of its size (ulimit -f) is an error of the write, with a sentence.
  signal(SIGXFSZ, SIG_IGN);
  using namespace espalier;
  const std::vector<std::string> words(argv + 1, argv + argc);
  const bool asks_for_help = words.empty() || words[0] == "help" ||
                             std::ranges::any_of(words, [](const std::string& word) {
                               return word == "--help" || word == "-h";
                             });
  const bool is_about_run = std::ranges::find(words, "run") != words.end();
  const std::string verb = !asks_for_help ? words[0] : is_about_run ? "run --help" : "--help";
  const std::vector<std::string> arguments(words.empty() ? words.begin() : words.begin() + 1,
                                           words.end());
  try {
    check_purposes(purpose_names());
    const Protocols all = protocols();
    if (verb == "run") return run_command(&argc, &argv, all, arguments);
    if (verb == "list") return checked(list_command(all, arguments));
    if (verb == "explain") return checked(explain_command(all, arguments));
    if (verb == "info") return checked(info_command(arguments));
    if (verb == "diff") return checked(diff_command(arguments));
    if (verb == "calibrate") return checked(calibrate_command(&argc, &argv, arguments));
    if (verb == "export") return checked(export_command(all, arguments));
    if (verb == "evaluate") return checked(evaluate_command(all, arguments));
    if (verb == "generate") return checked(generate_command(all, arguments));
    if (verb == "completion") return checked(completion_command(all, arguments));
    if (verb == "man") return checked(man_command(all, arguments));
    if (verb == "--version") return checked(version_command());
    if (verb == "run --help") {
      std::fputs(run_usage().c_str(), stdout);
      return checked(0);
    }
    if (verb == "--help") {
      std::fputs(usage().c_str(), stdout);
      return checked(words.empty() ? static_cast<int>(Status::bad_input) : 0);
    }
    throw InputError("there is no command '" + verb + "'; `espalier --help` lists them");
  } catch (const Error& error) {
    log_error(error.what());
    return static_cast<int>(error.status());
  } catch (const std::exception& error) {
    log_error(error.what());
    return static_cast<int>(Status::internal);
  }
}
