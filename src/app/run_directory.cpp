#include "espalier/app/run_directory.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "espalier/base/error.h"
#include "espalier/base/new_file.h"
#include "espalier/config/options.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

constexpr int kPatience_s = 5;
constexpr int kUnwritten_s = 1;

std::string read_text_file(const fs::path& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::string replace_all(std::string text, const std::string& from, const std::string& to) {
  for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return name;
}

/// Start time of the process, field 22 of /proc/PID/stat; 0 if there is no such process.
long long start_time(long pid) {
  const std::string stat = read_text_file(formatted("/proc/{}/stat", pid));
  const auto after_name = stat.rfind(')');
  if (after_name == std::string::npos) return 0;
  std::istringstream fields(stat.substr(after_name + 1));
  std::string field;
  for (int i = 3; i <= 22 && fields >> field; ++i) {
  }
  return std::atoll(field.c_str());
}

struct Owner {
  std::string host, job;
  long pid = 0;
  long long started = 0;
};

std::string own_job() {
  const char* job = std::getenv("SLURM_JOB_ID");
  return job == nullptr ? "-" : job;
}

bool is_running(const Owner& owner) {
  return owner.pid > 0 && owner.started != 0 && start_time(owner.pid) == owner.started;
}

/// Waits for a live owner on this host; throws if the folder remains in use.
void wait_for_owner(const fs::path& lock) {
  for (int tenths = 0;; ++tenths) {
    if (!fs::exists(lock)) return;
    Owner owner;
    std::istringstream(read_text_file(lock)) >> owner.host >> owner.pid >> owner.started >>
        owner.job;
    const bool empty = owner.host.empty();  // its owner has not written it yet, or died before
    if (empty || owner.host == host_name()) {
      if (empty ? tenths >= kUnwritten_s * 10 : !is_running(owner)) return;
      if (tenths >= kPatience_s * 10) {
        throw InputError(formatted(
            "{} is in use by process {} on this machine; wait for it or choose another run.name",
            lock.parent_path().string(), owner.pid));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      continue;
    }
    if (owner.job != "-" && owner.job == own_job()) return;
    throw InputError(
        formatted("{} is in use by process {} on host {}; if that run is gone, delete {}",
                  lock.parent_path().string(), owner.pid, owner.host, lock.string()));
  }
}

std::int64_t version_of(const fs::path& checkpoint) {
  const std::string name = checkpoint.filename().string();
  const bool is_one = name.starts_with("ckpt_") && name.ends_with(".h5");
  return is_one ? parse_integer(name.substr(5, name.size() - 8)).value_or(-1) : -1;
}

/// Whether the folder is empty, or holds only files of a start that ended before it wrote
/// config.ini, by a kill or a full disk.
bool is_unbegun(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool ours = name == "LOCK" || name == "config.ini.tmp" ||
                      (name == "checkpoints" && entry.is_directory() && fs::is_empty(entry.path()));
    if (!ours) return false;
  }
  return true;
}

/// Removes all files of the folder. DONE is the first, so that a run without some of its files
/// never looks finished. config.ini is the last: it marks the folder as a run, which a second try
/// can empty.
void empty(const fs::path& folder) {
  std::error_code error;
  const auto remove = [&](const fs::path& path) {
    fs::remove_all(path, error);
    if (error)
      throw OutputError(formatted("cannot empty {}: {}", folder.string(), error.message()));
  };
  remove(folder / "DONE");
  std::vector<fs::path> others;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename() != "config.ini") others.push_back(entry.path());
  }
  for (const fs::path& path : others) remove(path);
  remove(folder / "config.ini");
}

std::string without_newline(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

}  // namespace

KeptCheckpoints::KeptCheckpoints(const Config& config)
    : last(std::max<std::int64_t>(2, config.integer("checkpoint.keep"))),
      every(config.integer("checkpoint.keep_every")) {}

std::map<std::string, std::string> option_lines(const std::string& resolved) {
  std::map<std::string, std::string> values;
  std::istringstream lines(resolved);
  std::string line, section;
  while (std::getline(lines, line)) {
    if (line.starts_with('[')) {
      section = line.substr(1, line.find(']') - 1);
    } else if (const auto equals = line.find('='); equals != std::string::npos && line[0] != '#') {
      auto key = line.substr(0, equals);
      key.erase(key.find_last_not_of(" \t") + 1);
      values[section + "." + key] = line.substr(std::min(line.size(), equals + 2));
    }
  }
  return values;
}

fs::path RunDirectory::path_for(const Config& config) {
  std::string name = config.text("run.name");
  name = replace_all(name, "{seed}", config.text("run.seed"));
  name = replace_all(name, "{method}", config.text("method.name"));
  name = replace_all(name, "{job}", own_job());
  if (const auto open = name.find('{'); open != std::string::npos) {
    if (const auto close = name.find('}', open); close != std::string::npos) {
      throw InputError(
          formatted("run.name has {}, which stands for nothing; write {{seed}}, "
                    "{{method}}, {{job}} or a name without braces",
                    name.substr(open, close - open + 1)));
    }
  }
  if (name.empty() || name.find('/') != std::string::npos || name == "." || name == "..") {
    throw InputError(formatted("run.name '{}' is no folder name; choose another", name));
  }
  if (name.size() > NAME_MAX) {
    throw InputError(
        formatted("run.name has {} characters, and the name of a folder at most {}; shorten it: {}",
                  name.size(), NAME_MAX, name));
  }
  return fs::path(config.text("run.dir")) / name;
}

std::optional<RunDirectory::Found> RunDirectory::find(const fs::path& path) {
  std::error_code error;
  const fs::file_type type = fs::status(path, error).type();
  if (type == fs::file_type::not_found) return std::nullopt;
  if (type == fs::file_type::none) {
    throw InputError(formatted("{} cannot be accessed: {}; choose another run.dir", path.string(),
                               error.message()));
  }
  if (type != fs::file_type::directory) {
    throw InputError(formatted("{} exists and is no run; choose another run.name", path.string()));
  }
  if (!fs::exists(path / "DONE")) wait_for_owner(path / "LOCK");
  if (!fs::exists(path / "config.ini")) {
    if (is_unbegun(path)) return std::nullopt;
    throw InputError(formatted("{} exists and is no run; choose another run.name", path.string()));
  }
  // A run whose records are gone, or whose last line was damaged, is resumed, which makes both
  // again.
  const std::string line = fs::is_regular_file(path / "DONE", error)
                               ? without_newline(read_text_file(path / "DONE"))
                               : "";
  const bool is_done = line.starts_with("done: ") && fs::is_regular_file(path / "run.h5", error);
  return Found{read_text_file(path / "config.ini"), is_done ? line : ""};
}

RunDirectory::RunDirectory(fs::path path, Content content) : path_(std::move(path)) {
  std::error_code error;
  const fs::path lock = path_ / "LOCK";
  wait_for_owner(lock);
  if (content == Content::remove && fs::exists(path_)) {
    if (!fs::exists(path_ / "config.ini") && !is_unbegun(path_)) {
      throw InputError(
          formatted("{} is no run, so --overwrite does not delete it; choose another run.name",
                    path_.string()));
    }
    empty(path_);
  }
  fs::create_directories(path_ / "checkpoints", error);
  if (error) throw OutputError(formatted("cannot create {}: {}", path_.string(), error.message()));
  fs::remove(lock, error);
  const int file = open(lock.c_str(), O_CREAT | O_EXCL | O_WRONLY, 0644);
  if (file < 0) {
    if (errno == EEXIST)
      throw InputError(
          formatted("{} is in use by a run that started at the same time; choose "
                    "another run.name",
                    path_.string()));
    throw OutputError(formatted("cannot write {}: {}", lock.string(), std::strerror(errno)));
  }
  const long pid = getpid();
  const std::string text = formatted("{} {} {} {}\n", host_name(), pid, start_time(pid), own_job());
  const auto written = write(file, text.data(), text.size());
  const int reason = errno;
  close(file);
  if (written != static_cast<ssize_t>(text.size())) {
    fs::remove(lock, error);
    throw OutputError(formatted("cannot write {}: {}", lock.string(), std::strerror(reason)));
  }
}

void RunDirectory::begin(const std::string& resolved) const {
  std::error_code error;
  fs::remove(path_ / "DONE", error);
  write_file(path_ / "config.ini", resolved);
}

RunDirectory::~RunDirectory() {
  std::error_code error;
  fs::remove(path_ / "LOCK", error);
}

fs::path RunDirectory::checkpoint(std::int64_t version) const {
  return path_ / "checkpoints" / formatted("ckpt_{:08}.h5", version);
}

std::vector<fs::path> RunDirectory::checkpoints() const {
  std::vector<fs::path> paths;
  std::error_code ignored;  // the folder may be gone (restore_checkpoint_folder)
  for (const auto& entry : fs::directory_iterator(path_ / "checkpoints", ignored)) {
    if (version_of(entry.path()) >= 0) paths.push_back(entry.path());
  }
  std::ranges::sort(paths, std::greater{}, version_of);
  return paths;
}

void RunDirectory::prune_checkpoints(const KeptCheckpoints& kept) const {
  auto paths = checkpoints();
  std::erase_if(paths, [](const fs::path& path) {  // nothing that only has such a name
    std::error_code ignored;
    return !fs::is_regular_file(path, ignored);
  });
  for (auto i = static_cast<std::size_t>(kept.last); i < paths.size(); ++i) {
    std::error_code ignored;
    if (kept.every <= 0 || version_of(paths[i]) % kept.every != 0) fs::remove(paths[i], ignored);
  }
}

bool RunDirectory::restore_checkpoint_folder() const {
  const fs::path folder = path_ / "checkpoints";
  std::error_code error;
  const bool is_made = fs::create_directory(folder, error);
  if (error) {
    throw OutputError(formatted("cannot write {}: {}; was the folder of the run removed?",
                                folder.string(), error.message()));
  }
  return is_made;
}

void RunDirectory::restore_run_file(const Bytes& image) const {
  write_file(run_file(), {reinterpret_cast<const char*>(image.data()), image.size()});
}

void RunDirectory::done(const std::string& line) { write_file(path_ / "DONE", line + "\n"); }

}  // namespace espalier
