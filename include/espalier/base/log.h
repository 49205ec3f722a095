#pragma once
// Messages for the user. Only rank 0 prints; other ranks raise Errors, which the job's end reports
// once. error: the run ends; warning: the run continues, but the user should know; result: the
// closing line of a run, printed with -q too; note: any other line of a run. Every message is also
// appended to the run directory's log.txt once that is open.

#include <filesystem>
#include <string>

#include "espalier/base/error.h"  // fmt, for the callers' texts

namespace espalier {

enum class Verbosity { quiet, normal, verbose };

void set_verbosity(Verbosity verbosity);
/// Also appends later messages to `path`.
void open_log(const std::filesystem::path& path);
void close_log();

void log_result(const std::string& text);
void log_note(const std::string& text);
/// For log.txt alone, of what the terminal shows in another way.
void log_to_file(const std::string& text);
void log_warning(const std::string& text);
void log_error(const std::string& text);

}  // namespace espalier
