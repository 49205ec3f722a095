#include "espalier/base/log.h"

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <mutex>

#include "espalier/base/error.h"

namespace espalier {

namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

struct Output {
  std::mutex mutex;
  Verbosity verbosity = Verbosity::normal;
  std::unique_ptr<std::FILE, CloseFile> file;
};

Output& output() {
  static Output the_output;
  return the_output;
}

std::string time_stamp() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  return {text, std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S%z", &local)};
}

// Flushed line by line: users read the terminal and the log during the run, and both must hold the
// last message of a run that is killed. A message that cannot be written does not end a run.
void write_line(std::FILE* file, const std::string& line) {
  std::fwrite(line.data(), 1, line.size(), file);
  std::fflush(file);
}

/// `terminal`: null for the file alone.
void write(std::FILE* terminal, Verbosity from, const std::string& prefix,
           const std::string& text) {
  if (message_rank() != 0) return;
  Output& out = output();
  const std::scoped_lock lock(out.mutex);
  if (terminal != nullptr && out.verbosity >= from) write_line(terminal, prefix + text + "\n");
  if (out.file) write_line(out.file.get(), time_stamp() + " " + prefix + text + "\n");
}

}  // namespace

void set_verbosity(Verbosity verbosity) { output().verbosity = verbosity; }

void open_log(const std::filesystem::path& path) {
  if (message_rank() != 0) return;
  std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "a"));
  if (!file)
    throw OutputError(
        formatted("cannot open the log {}: {}; make its folder writable or choose another "
                  "run directory",
                  path.string(), std::strerror(errno)));
  const std::scoped_lock lock(output().mutex);
  output().file = std::move(file);
}

void close_log() {
  const std::scoped_lock lock(output().mutex);
  output().file.reset();
}

// Users' scripts read results and notes ("done: ..."), so neither has a prefix.
void log_result(const std::string& text) { write(stdout, Verbosity::quiet, "", text); }
void log_note(const std::string& text) { write(stdout, Verbosity::normal, "", text); }
void log_to_file(const std::string& text) { write(nullptr, Verbosity::quiet, "", text); }
void log_warning(const std::string& text) { write(stderr, Verbosity::quiet, "warning: ", text); }
void log_error(const std::string& text) { write(stderr, Verbosity::quiet, "error: ", text); }

}  // namespace espalier
