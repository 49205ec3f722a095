#pragma once
// Messages for the user. Only rank 0 prints; other ranks raise Errors, which the job's end reports
// once. error: the run ends; warning: the run goes on but the user should know; result: what a run
// came to, with -q as well; note: one line of a normal run; detail: with -v only. Everything also
// goes to the run directory's log.txt once it is open.

#include <filesystem>
#include <string>

#include "espalier/base/error.h"  // fmt, for the callers' texts

namespace espalier {

enum class Verbosity { quiet, normal, verbose };

void set_verbosity(Verbosity verbosity);
/// From here on messages are also appended to `path`.
void open_log(const std::filesystem::path& path);
void close_log();

void log_result(const std::string& text);
void log_note(const std::string& text);
void log_warning(const std::string& text);
void log_error(const std::string& text);
void log_detail(const std::string& text);

}  // namespace espalier
