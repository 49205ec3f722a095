#include "espalier/record/checkpoint.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/hash.h"
#include "espalier/base/kill_point.h"
#include "espalier/base/new_file.h"
#include "h5_io.h"
#include "piecewise_file.h"
#include "seal.h"

namespace espalier {

namespace {

// Scalars and short lists lie in their object header: one read and a few hundred bytes less each.
constexpr std::size_t kCompactBytes = 512;

H5Handle fixed_text_type(std::size_t bytes) {
  H5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  h5_check(H5Tset_size(type, bytes), "make a text type");
  h5_check(H5Tset_strpad(type, H5T_STR_NULLPAD), "make a text type");
  h5_check(H5Tset_cset(type, H5T_CSET_UTF8), "make a text type");
  return type;
}

/// The groups that open() has entered; both directions share it.
class GroupStack {
 public:
  explicit GroupStack(hid_t root) : root_(root) {}
  hid_t top() const { return groups_.empty() ? root_ : groups_.back().get(); }
  void push(H5Handle group) { groups_.push_back(std::move(group)); }
  void pop() {
    ESPALIER_CHECK(!groups_.empty(), "an archive's close without open");
    groups_.pop_back();
  }
  std::string name_of(const char* child) const {
    const std::string parent = h5::object_name(top());
    return (parent == "/" ? "" : parent) + "/" + child;
  }

 private:
  hid_t root_;
  std::vector<H5Handle> groups_;
};

class SavingArchive final : public Archive {
 public:
  explicit SavingArchive(const h5::PiecewiseFile& file) : file_(file), groups_(file.id()) {}
  bool loading() const override { return false; }

  void value(const char* name, std::int64_t& value) override {
    write(name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value, 1, sizeof value);
  }
  void value(const char* name, double& value) override {
    write(name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value, 1, sizeof value);
  }
  void value(const char* name, std::string& value) override {
    ESPALIER_CHECK(value.find('\0') == std::string::npos, "text {} holds a null; use bytes",
                   groups_.name_of(name));
    const H5Handle type = fixed_text_type(value.empty() ? 1 : value.size());
    write(name, type, type, value.c_str(), 1, value.size());
  }
  void value(const char* name, std::vector<std::int64_t>& values) override {
    write(name, H5T_STD_I64LE, H5T_NATIVE_INT64, values.data(), values.size(),
          values.size() * sizeof(std::int64_t));
  }
  void value(const char* name, std::vector<double>& values) override {
    write(name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, values.data(), values.size(),
          values.size() * sizeof(double));
  }
  void value(const char* name, Bytes& bytes) override {
    write(name, H5T_STD_U8LE, H5T_NATIVE_UINT8, bytes.data(), bytes.size(), bytes.size());
  }
  void value(const char* name, std::span<float> values) override {
    write(name, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, values.data(), values.size(),
          values.size_bytes());
  }
  void open(const char* name) override {
    check_new(name);
    groups_.push({h5_check(H5Gcreate2(groups_.top(), name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                           "create group " + groups_.name_of(name)),
                  H5Gclose});
  }
  void close() override { groups_.pop(); }

 private:
  /// HDF5 refuses a second entry of a name too, but as a failed write.
  void check_new(const char* name) const {
    ESPALIER_CHECK(h5_check(H5Lexists(groups_.top(), name, H5P_DEFAULT), "look for a value") == 0,
                   "{} is saved twice; rename one", groups_.name_of(name));
  }

  void write(const char* name, hid_t file_type, hid_t memory_type, const void* data,
             std::size_t count, std::size_t bytes) {
    check_new(name);
    const std::string what = "write " + groups_.name_of(name);
    const hsize_t length = count;
    const H5Handle space(h5_check(H5Screate_simple(1, &length, nullptr), what), H5Sclose);
    const H5Handle creation(h5_check(H5Pcreate(H5P_DATASET_CREATE), what), H5Pclose);
    // A small checkpoint is mostly headers: without this each keeps 150 bytes free.
    h5_check(H5Pset_dset_no_attrs_hint(creation, true), what);
    h5_check(H5Pset_obj_track_times(creation, false), what);
    if (count > 0 && bytes <= kCompactBytes) h5_check(H5Pset_layout(creation, H5D_COMPACT), what);
    const H5Handle dataset(h5_check(H5Dcreate2(groups_.top(), name, file_type, space, H5P_DEFAULT,
                                               creation, H5P_DEFAULT),
                                    what),
                           H5Dclose);
    if (count > 0)
      h5_check(H5Dwrite(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), what);
    file_.check();
  }

  const h5::PiecewiseFile& file_;
  GroupStack groups_;
};

class LoadingArchive final : public Archive {
 public:
  LoadingArchive(hid_t root, std::string file) : file_(std::move(file)), groups_(root) {}
  bool loading() const override { return true; }

  void value(const char* name, std::int64_t& value) override {
    one(name, H5T_INTEGER, H5T_NATIVE_INT64, &value, sizeof value);
  }
  void value(const char* name, double& value) override {
    one(name, H5T_FLOAT, H5T_NATIVE_DOUBLE, &value, sizeof value);
  }
  void value(const char* name, std::string& value) override {
    const H5Handle dataset = open_dataset(name);
    h5::Values values = h5::read_dataset(dataset);
    if (values.kind != H5T_STRING || values.count() != 1) refuse(name, "one text");
    value = std::move(values.texts[0]);
  }
  void value(const char* name, std::vector<std::int64_t>& values) override {
    list(name, H5T_INTEGER, H5T_NATIVE_INT64, values);
  }
  void value(const char* name, std::vector<double>& values) override {
    list(name, H5T_FLOAT, H5T_NATIVE_DOUBLE, values);
  }
  void value(const char* name, Bytes& bytes) override {
    list(name, H5T_INTEGER, H5T_NATIVE_UINT8, bytes);
  }
  void value(const char* name, std::span<float> values) override {
    const H5Handle dataset = open_numbers(name, H5T_FLOAT, sizeof(float));
    const std::int64_t count = h5::elements(dataset);
    if (count != std::ssize(values))
      throw OutputError(
          formatted("{} of {} holds {} values where {} are needed; it was written "
                    "with another model or configuration",
                    groups_.name_of(name), file_, count, values.size()));
    read(dataset, H5T_NATIVE_FLOAT, values.data(), count);
  }
  void open(const char* name) override {
    if (h5_check(H5Lexists(groups_.top(), name, H5P_DEFAULT), "look for a group") == 0)
      refuse(name, "a group");
    groups_.push({h5_check(H5Gopen2(groups_.top(), name, H5P_DEFAULT),
                           "open group " + groups_.name_of(name)),
                  H5Gclose});
  }
  void close() override { groups_.pop(); }

 private:
  [[noreturn]] void refuse(const char* name, const char* expected) const {
    throw OutputError(formatted(
        "{} does not hold {} named {}; it was written by another method, model or release", file_,
        expected, groups_.name_of(name)));
  }

  H5Handle open_dataset(const char* name) const {
    if (h5_check(H5Lexists(groups_.top(), name, H5P_DEFAULT), "look for a value") == 0)
      refuse(name, "a value");
    return {h5_check(H5Dopen2(groups_.top(), name, H5P_DEFAULT), "open " + groups_.name_of(name)),
            H5Dclose};
  }

  H5Handle open_numbers(const char* name, H5T_class_t kind, std::size_t bytes) const {
    H5Handle dataset = open_dataset(name);
    const H5Handle type(h5_check(H5Dget_type(dataset), "read a type"), H5Tclose);
    if (H5Tget_class(type) != kind || H5Tget_size(type) != bytes)
      refuse(name, kind == H5T_FLOAT ? "real values" : "integers");
    return dataset;
  }

  void read(hid_t dataset, hid_t memory_type, void* data, std::int64_t count) const {
    if (count == 0) return;
    h5_check(H5Dread(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data),
             formatted("read {} of {}", h5::object_name(dataset), file_));
  }

  void one(const char* name, H5T_class_t kind, hid_t memory_type, void* value, std::size_t bytes) {
    const H5Handle dataset = open_numbers(name, kind, bytes);
    if (h5::elements(dataset) != 1) refuse(name, "one value");
    read(dataset, memory_type, value, 1);
  }

  template <class List>
  void list(const char* name, H5T_class_t kind, hid_t memory_type, List& values) {
    const H5Handle dataset = open_numbers(name, kind, sizeof(*values.data()));
    const std::int64_t count = h5::elements(dataset);
    values.resize(static_cast<std::size_t>(count));
    read(dataset, memory_type, values.data(), count);
  }

  std::string file_;
  GroupStack groups_;
};

/// Gives the calling thread, on Linux a scheduler's unit of its own, a third of the weight that the
/// training beside it has: a round waits for its slowest client, so what a checkpoint takes from
/// one of them delays all. Not less, because the next checkpoint waits for this one, and on a
/// machine that is busy with other work a thread of the lowest priority hardly runs.
void yield_to_training() {
  constexpr int kLess = 5;
  const auto self = static_cast<id_t>(::gettid());
  setpriority(PRIO_PROCESS, self, std::min(19, getpriority(PRIO_PROCESS, self) + kLess));
}

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;

/// A checkpoint under its temporary name.
struct Unfinished {
  explicit Unfinished(const std::filesystem::path& path)
      : file(path), content(file, kMostCopiedBytes) {}
  NewFile file;
  h5::PiecewiseFile content;
};

void seal(NewFile& file, std::int64_t bytes) {
  Hasher hasher;
  Bytes piece(kPieceBytes);
  for (std::int64_t at = 0; at < bytes; at += std::ssize(piece)) {
    piece.resize(std::min(kPieceBytes, static_cast<std::size_t>(bytes - at)));
    file.read_at(at, piece.data(), piece.size());
    hasher.add(piece.data(), piece.size());
  }
  const Seal seal = seal_of(static_cast<std::uint64_t>(bytes), hasher.value());
  file.write_at(bytes, &seal, sizeof(seal));
}

void complete(Unfinished& checkpoint, const CheckpointSteps& steps) {
  const std::int64_t bytes = checkpoint.content.complete(checkpoint.file);
  kill_point("checkpoint.half");
  seal(checkpoint.file, bytes);
  if (steps.before) steps.before();
  kill_point("checkpoint.written");
  checkpoint.file.put_in_place();
  kill_point("checkpoint.renamed");
}

/// OutputErrors of `work` with what to do about them.
template <class Work>
auto advising(const Work& work) {
  try {
    return work();
  } catch (const OutputError& error) {
    throw OutputError(formatted("{}; make room or choose another run.dir", error.what()));
  }
}

}  // namespace

void refuse_folder(const std::filesystem::path& path) {
  std::error_code ignored;
  const bool is_run = std::filesystem::is_directory(path / "checkpoints", ignored);
  std::filesystem::path newest;
  for (const auto& entry :
       std::filesystem::directory_iterator(is_run ? path / "checkpoints" : path, ignored)) {
    const std::string name = entry.path().filename().string();
    const bool is_one = name.starts_with("ckpt_") && name.ends_with(".h5");
    if (is_one && name > newest.filename().string()) newest = entry.path();
  }
  if (!newest.empty()) {
    throw InputError(formatted("{} is a folder; name one of its checkpoints, as {}", path.string(),
                               newest.string()));
  }
  throw InputError(formatted("{} is a {}; name a checkpoint (.h5)", path.string(),
                             is_run ? "run's folder without checkpoints" : "folder"));
}

CheckpointWriter::~CheckpointWriter() {
  if (writing_.valid()) writing_.wait();
}

void CheckpointWriter::write(const std::filesystem::path& path, const std::string& config_text,
                             const std::function<void(Archive&)>& content, CheckpointSteps steps) {
  finish();
  kill_point("checkpoint.begin");
  auto checkpoint = advising([&] {
    auto begun = std::make_shared<Unfinished>(path);
    h5::write_identity(begun->content.id(), h5::kCheckpointType, config_text);
    SavingArchive archive(begun->content);
    content(archive);
    h5::write_attribute(begun->content.id(), "complete", std::int64_t{1});
    begun->content.close();
    return begun;
  });
  writing_ = std::async(std::launch::async,
                        [checkpoint = std::move(checkpoint), steps = std::move(steps)]() mutable {
                          yield_to_training();
                          advising([&] { complete(*checkpoint, steps); });
                          checkpoint.reset();
                          if (steps.after) steps.after();
                        });
}

void CheckpointWriter::finish() {
  if (writing_.valid()) writing_.get();
}

struct CheckpointReader::State {
  std::filesystem::path path;
  H5Handle file;
};

CheckpointReader::CheckpointReader(const std::filesystem::path& path)
    : state_(std::make_unique<State>()) {
  state_->path = path;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored))
    throw OutputError(formatted("there is no checkpoint {}; check its name", path.string()));
  if (path.extension() != ".h5" && std::filesystem::is_directory(path, ignored)) {
    refuse_folder(path);
  }
  std::string kind;
  try {
    h5::require_file(path);
    if (is_sealed(path)) {
      Record record = open_record(path, true);
      kind = record.kind;
      state_->file = std::move(record.file);
    } else {
      kind = read_records({path}, [&] { return open_record(path, false).kind; });
    }
  } catch (const std::exception& error) {  // a damaged size may also ask for absurd memory
    throw OutputError(formatted("cannot use checkpoint {}: {}; use an earlier or another one",
                                path.string(), h5::brief(error.what())));
  }
  if (kind != h5::kCheckpointType)
    throw OutputError(
        formatted("{} is an {} file and no checkpoint; give a file of its folder checkpoints/",
                  path.string(), kind));
}

CheckpointReader::~CheckpointReader() = default;

std::string CheckpointReader::config_text() const {
  return h5::text_attribute(state_->file, "config");
}

bool CheckpointReader::holds(const char* name) const {
  return h5_check(H5Lexists(state_->file, name, H5P_DEFAULT), "look for a value") > 0;
}

void CheckpointReader::read(const std::function<void(Archive&)>& content) {
  LoadingArchive archive(state_->file, state_->path.string());
  content(archive);
}

}  // namespace espalier
