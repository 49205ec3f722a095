#include "espalier/record/run_file.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>
#include <deque>
#include <optional>
#include <utility>

#include "espalier/base/archive.h"
#include "espalier/base/coded.h"
#include "espalier/base/error.h"
#include "h5_io.h"
#include "journal.h"
#include "seal.h"

namespace espalier {

namespace {

constexpr hsize_t kChunkRows = 1024;
// Of one table; a million clients are as many rows at once.
constexpr std::int64_t kMostWaiting = 1 << 16;
using SteadyClock = std::chrono::steady_clock;

H5Handle file_type(ColumnType type) {
  switch (type) {
    case ColumnType::integer:
      return {H5Tcopy(H5T_STD_I64LE), H5Tclose};
    case ColumnType::real:
      return {H5Tcopy(H5T_IEEE_F64LE), H5Tclose};
    case ColumnType::text:
      break;
  }
  H5Handle text(H5Tcopy(H5T_C_S1), H5Tclose);
  h5_check(H5Tset_size(text, kTextBytes), "make a text type");
  h5_check(H5Tset_strpad(text, H5T_STR_NULLPAD), "make a text type");
  h5_check(H5Tset_cset(text, H5T_CSET_UTF8), "make a text type");
  return text;
}

hid_t memory_type(ColumnType type, const H5Handle& on_file) {
  switch (type) {
    case ColumnType::integer:
      return H5T_NATIVE_INT64;
    case ColumnType::real:
      return H5T_NATIVE_DOUBLE;
    case ColumnType::text:
      break;
  }
  return on_file;
}

H5Handle create_column(hid_t group, const Column& column) {
  const std::string what = "create column " + column.name;
  const H5Handle type = file_type(column.type);
  const hsize_t none = 0;
  const hsize_t unlimited = H5S_UNLIMITED;
  const H5Handle space(h5_check(H5Screate_simple(1, &none, &unlimited), what), H5Sclose);
  const H5Handle creation(h5_check(H5Pcreate(H5P_DATASET_CREATE), what), H5Pclose);
  h5_check(H5Pset_chunk(creation, 1, &kChunkRows), what);
  H5Handle dataset(h5_check(H5Dcreate2(group, column.name.c_str(), type, space, H5P_DEFAULT,
                                       creation, H5P_DEFAULT),
                            what),
                   H5Dclose);
  h5::write_attribute(dataset, "units", column.unit);
  h5::write_attribute(dataset, "description", column.description);
  h5::write_attribute(dataset, "wall", std::int64_t{column.wall});
  return dataset;
}

H5Handle open_column(hid_t group, const Column& column) {
  H5Handle dataset(
      h5_check(H5Dopen2(group, column.name.c_str(), H5P_DEFAULT), "open column " + column.name),
      H5Dclose);
  const H5Handle type(h5_check(H5Dget_type(dataset), "read a column's type"), H5Tclose);
  if (h5_check(H5Tequal(type, file_type(column.type)), "compare types") == 0)
    throw OutputError(
        formatted("column {} has another type than this program writes; go on with "
                  "the release that began the run",
                  h5::object_name(dataset)));
  return dataset;
}

std::size_t width_of(const Column& column) {
  return column.type == ColumnType::text ? kTextBytes : sizeof(double);
}

/// A table of the file. Rows that are not written yet wait column by column, as HDF5 takes them.
class Table {
 public:
  Table(hid_t file, const TableSchema& schema) : Table(schema) {
    const H5Handle links(h5_check(H5Pcreate(H5P_LINK_CREATE), "create tables"), H5Pclose);
    h5_check(H5Pset_create_intermediate_group(links, 1), "create tables");
    const H5Handle group(
        h5_check(H5Gcreate2(file, schema.path.c_str(), links, H5P_DEFAULT, H5P_DEFAULT),
                 "create table " + schema.path),
        H5Gclose);
    for (const Column& column : schema.columns) datasets_.push_back(create_column(group, column));
  }

  /// Opens what is there, cut to its valid length.
  static Table open(hid_t file, const TableSchema& schema) {
    const H5Handle group(
        h5_check(H5Gopen2(file, schema.path.c_str(), H5P_DEFAULT), "open table " + schema.path),
        H5Gclose);
    Table table(schema);
    for (const Column& column : schema.columns)
      table.datasets_.push_back(open_column(group, column));
    table.written_ = h5::elements(table.datasets_.at(0));
    for (const H5Handle& dataset : table.datasets_)
      table.written_ = std::min(table.written_, h5::elements(dataset));
    const auto length = static_cast<hsize_t>(table.written_);
    for (const H5Handle& dataset : table.datasets_)
      h5_check(H5Dset_extent(dataset, &length), "cut " + h5::object_name(dataset));
    return table;
  }

  const TableSchema& schema() const { return schema_; }
  std::int64_t rows() const { return written_ + buffered_; }

  void append(const Row& row) {
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      const Row::Value& value = row.values()[c];
      const std::size_t at = columns_[c].size();
      columns_[c].resize(at + width_of(schema_.columns[c]));
      std::byte* const place = columns_[c].data() + at;
      if (const auto* integer = std::get_if<std::int64_t>(&value)) {
        std::memcpy(place, integer, sizeof *integer);
      } else if (const auto* real = std::get_if<double>(&value)) {
        std::memcpy(place, real, sizeof *real);
      } else {
        const auto& text = std::get<std::string>(value);
        std::memset(place, 0, kTextBytes);
        std::memcpy(place, text.data(), text.size());
      }
    }
    ++buffered_;
  }

  /// Rows for the journal. Saving: those that it lacks, which it holds from then on. Loading:
  /// appends rows that it holds.
  void archive_rows(Archive& archive) {
    std::int64_t count = buffered_ - journaled_;
    archive.value("rows", count);
    for (std::size_t c = 0; c < columns_.size() && count > 0; ++c) {
      Bytes& column = columns_[c];
      const auto width = static_cast<std::ptrdiff_t>(width_of(schema_.columns[c]));
      Bytes rows;
      if (!archive.loading()) {
        rows.resize(static_cast<std::size_t>(count * width));
        std::memcpy(rows.data(), column.data() + journaled_ * width, rows.size());
      }
      archive.value("column", rows);
      if (!archive.loading()) continue;
      ESPALIER_CHECK(std::ssize(rows) == count * width, "{} rows of {} in {} bytes", count,
                     schema_.path, rows.size());
      column.insert(column.end(), rows.begin(), rows.end());
    }
    if (archive.loading()) buffered_ += count;
    journaled_ = buffered_;
  }
  std::int64_t waiting() const { return buffered_; }
  bool is_journaled() const { return journaled_ == buffered_; }

  /// Takes all written rows back into the buffer, as rows that the journal lacks.
  void read_back() {
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      const std::string what = "read " + h5::object_name(datasets_[c]);
      const H5Handle type(h5_check(H5Dget_type(datasets_[c]), what), H5Tclose);
      columns_[c].resize(static_cast<std::size_t>(written_) * width_of(schema_.columns[c]));
      if (written_ > 0)
        h5_check(H5Dread(datasets_[c], memory_type(schema_.columns[c].type, type), H5S_ALL, H5S_ALL,
                         H5P_DEFAULT, columns_[c].data()),
                 what);
    }
    buffered_ = std::exchange(written_, 0);
  }

  void write() {
    if (buffered_ == 0) return;
    for (std::size_t c = 0; c < datasets_.size(); ++c) write_column(c);
    written_ += std::exchange(buffered_, 0);
    journaled_ = 0;
    for (Bytes& column : columns_) column.clear();
  }

 private:
  explicit Table(const TableSchema& schema) : schema_(schema), columns_(schema.columns.size()) {}

  void write_column(std::size_t c) {
    const std::string what = formatted("write {}/{}", schema_.path, schema_.columns[c].name);
    const H5Handle& dataset = datasets_[c];
    const auto start = static_cast<hsize_t>(written_);
    const auto count = static_cast<hsize_t>(buffered_);
    const hsize_t length = start + count;
    h5_check(H5Dset_extent(dataset, &length), what);
    const H5Handle space(h5_check(H5Dget_space(dataset), what), H5Sclose);
    h5_check(H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, nullptr, &count, nullptr), what);
    const H5Handle memory_space(h5_check(H5Screate_simple(1, &count, nullptr), what), H5Sclose);
    const H5Handle type(h5_check(H5Dget_type(dataset), what), H5Tclose);
    h5_check(H5Dwrite(dataset, memory_type(schema_.columns[c].type, type), memory_space, space,
                      H5P_DEFAULT, columns_[c].data()),
             what);
  }

  TableSchema schema_;
  std::vector<H5Handle> datasets_;
  std::vector<Bytes> columns_;  // of the rows that wait
  std::int64_t buffered_ = 0;   // rows that wait
  std::int64_t journaled_ = 0;  // of these, rows that the journal holds
  std::int64_t written_ = 0;
};

/// The first block of a journal.
struct JournalHead {
  std::string date;
  std::string tables;
};

void archive_head(Archive& archive, JournalHead& head) {
  archive.value("date", head.date);
  archive.value("tables", head.tables);
}

/// Names and types of all columns. A journal stores rows without them.
std::string description_of(const std::vector<const TableSchema*>& tables) {
  std::string text;
  for (const TableSchema* schema : tables) {
    text += schema->path + "\n";
    for (const Column& column : schema->columns)
      text += formatted("  {} {}\n", column.name, static_cast<int>(column.type));
  }
  return text;
}

std::string now() { return formatted("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

}  // namespace

struct RunFile::State {
  std::filesystem::path path;
  H5Handle file;
  std::deque<Table> tables;
  std::optional<Journal> journal;
  std::optional<SteadyClock::time_point> last_flush;
  std::optional<std::string> error;

  template <class Body>
  void keeping_first_error(const Body& body) {
    if (error) throw OutputError(*error);
    try {
      body();
    } catch (const OutputError& failure) {
      error = formatted("{}: {}; make room or choose another run.dir, and start the run again",
                        path.string(), h5::brief(failure.what()));
      throw OutputError(*error);
    }
  }

  Table* find(const std::string& name) {
    const auto it = std::find_if(tables.begin(), tables.end(),
                                 [&](const Table& table) { return table.schema().path == name; });
    return it == tables.end() ? nullptr : &*it;
  }

  void create(const std::string& config_text, const std::string& date,
              const std::vector<const TableSchema*>& schemas) {
    file = h5::create_file(path);
    h5::write_identity(file, h5::kRunType, config_text);
    h5::write_attribute(file, "date", date);
    for (const TableSchema* schema : schemas) tables.emplace_back(file, *schema);
  }

  void write_journal() {
    if (!journal || std::ranges::all_of(tables, &Table::is_journaled)) return;
    ByteArchive rows;
    for (Table& table : tables) table.archive_rows(rows);
    journal->append(rows.take());
  }

  void write() {
    write_journal();
    for (Table& table : tables) table.write();
  }

  void write_and_flush() {
    write();
    h5_check(H5Fflush(file, H5F_SCOPE_GLOBAL), "flush the file");
    last_flush = SteadyClock::now();
  }
};

void archive_mark(Archive& archive, RecordsMark& mark) {
  archive.value("records_bytes", mark.bytes);
  archive.value("records_checksum", mark.checksum);
}

void check_records(const std::filesystem::path& journal, RecordsMark mark) {
  read_journal(journal, mark, [](const Bytes&) {});
}

RunFile::RunFile(const std::filesystem::path& path, const std::string& config_text,
                 const std::vector<const TableSchema*>& tables,
                 const std::filesystem::path& journal)
    : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->keeping_first_error([&] {
    const std::string date = now();
    state_->create(config_text, date, tables);
    if (!journal.empty()) {
      state_->journal.emplace(journal);
      state_->journal->append(encoded(JournalHead{date, description_of(tables)}, archive_head));
    }
    state_->write_and_flush();
  });
}

RunFile::RunFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
RunFile::RunFile(RunFile&&) noexcept = default;
RunFile& RunFile::operator=(RunFile&&) noexcept = default;

RunFile RunFile::reopen(const std::filesystem::path& path, const std::string& config_text,
                        const std::vector<const TableSchema*>& tables,
                        const std::filesystem::path& journal) {
  auto state = std::make_unique<State>();
  state->path = path;
  drop_seal(path);
  state->file = h5::open_file(path, true);
  if (h5::check_identity(state->file, path) != h5::kRunType)
    throw OutputError(formatted("{} is a checkpoint; give a run file", path.string()));
  h5_check(H5Adelete(state->file, "config"), "replace the configuration");
  h5::write_attribute(state->file, "config", config_text);
  for (const TableSchema* schema : tables)
    state->tables.push_back(Table::open(state->file, *schema));
  if (!journal.empty()) {
    state->journal.emplace(journal);
    state->journal->append(
        encoded(JournalHead{h5::text_attribute(state->file, "date"), description_of(tables)},
                archive_head));
    for (Table& table : state->tables) table.read_back();
    state->write_and_flush();
  }
  return RunFile(std::move(state));
}

RunFile RunFile::rebuild(const std::filesystem::path& path, const std::string& config_text,
                         const std::vector<const TableSchema*>& tables,
                         const std::filesystem::path& journal, RecordsMark mark) {
  auto state = std::make_unique<State>();
  state->path = path;
  std::error_code ignored;
  std::filesystem::remove(path, ignored);  // who reads the old file goes on to read it
  read_journal(journal, mark, [&](const Bytes& block) {
    if (!state->file) {
      const auto head = decoded<JournalHead>(block, archive_head);
      if (head.tables != description_of(tables))
        throw OutputError(
            formatted("{} holds other columns than this program writes; go on with the release "
                      "that began the run",
                      journal.string()));
      state->keeping_first_error([&] { state->create(config_text, head.date, tables); });
      return;
    }
    ByteArchive rows(block);
    for (Table& table : state->tables) table.archive_rows(rows);
    state->keeping_first_error([&] { state->write(); });
  });
  state->keeping_first_error([&] {
    state->journal.emplace(journal, mark);
    state->write_and_flush();
  });
  return RunFile(std::move(state));
}

RunFile::~RunFile() {
  if (!state_) return;
  try {
    close();
  } catch (const std::exception&) {
    // A caller that must know calls close() itself; here it would end the program.
  }
}

void RunFile::append(const Row& row) {
  if (state_->error) throw OutputError(*state_->error);
  Table* table = state_->find(row.schema().path);
  ESPALIER_CHECK(state_->file && table != nullptr, "no open table {}", row.schema().path);
  ESPALIER_CHECK(row.values().size() == table->schema().columns.size(),
                 "a row of {} has other columns", row.schema().path);
  table->append(row);
  if (table->waiting() >= kMostWaiting) state_->keeping_first_error([&] { state_->write(); });
}

std::int64_t RunFile::rows(const std::string& name) const {
  const Table* table = state_->find(name);
  ESPALIER_CHECK(table != nullptr, "no table {}", name);
  return table->rows();
}

void RunFile::flush(double not_before_s) {
  const std::chrono::duration<double> pause(not_before_s);
  if (state_->last_flush && SteadyClock::now() - *state_->last_flush < pause) return;
  state_->keeping_first_error([&] {
    ESPALIER_CHECK(state_->file, "flush of a closed run file");
    state_->write_and_flush();
  });
}

RecordsMark RunFile::mark() {
  ESPALIER_CHECK(state_->journal, "{} has no journal", state_->path.string());
  state_->keeping_first_error([&] { state_->write_journal(); });
  return state_->journal->mark();
}

void RunFile::sync_journal() const { state_->journal->sync(); }

void RunFile::close() {
  state_->keeping_first_error([&] {
    if (!state_->file) return;
    state_->write_and_flush();
    state_->tables.clear();
    state_->file.close();
    add_seal(state_->path);
  });
}

}  // namespace espalier
