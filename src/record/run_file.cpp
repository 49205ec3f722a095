#include "espalier/record/run_file.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>
#include <deque>
#include <fstream>
#include <optional>

#include "espalier/base/error.h"
#include "h5_io.h"
#include "seal.h"

namespace espalier {

namespace {

constexpr hsize_t kChunkRows = 1024;
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

class Table {
 public:
  Table(hid_t file, const TableSchema& schema) : schema_(schema) {
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
  std::int64_t rows() const { return written_ + static_cast<std::int64_t>(buffer_.size()); }
  void append(const Row& row) { buffer_.push_back(row.values()); }

  void write() {
    if (buffer_.empty()) return;
    for (std::size_t c = 0; c < datasets_.size(); ++c) write_column(c);
    written_ += static_cast<std::int64_t>(buffer_.size());
    buffer_.clear();
  }

 private:
  explicit Table(const TableSchema& schema) : schema_(schema) {}

  void write_column(std::size_t c) {
    const std::string what = formatted("write {}/{}", schema_.path, schema_.columns[c].name);
    const H5Handle& dataset = datasets_[c];
    const hsize_t start = static_cast<hsize_t>(written_);
    const hsize_t count = buffer_.size();
    const hsize_t length = start + count;
    h5_check(H5Dset_extent(dataset, &length), what);
    const H5Handle space(h5_check(H5Dget_space(dataset), what), H5Sclose);
    h5_check(H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, nullptr, &count, nullptr), what);
    const H5Handle memory_space(h5_check(H5Screate_simple(1, &count, nullptr), what), H5Sclose);
    const H5Handle type(h5_check(H5Dget_type(dataset), what), H5Tclose);

    const std::vector<std::byte> block = column_block(c);
    h5_check(H5Dwrite(dataset, memory_type(schema_.columns[c].type, type), memory_space, space,
                      H5P_DEFAULT, block.data()),
             what);
  }

  std::vector<std::byte> column_block(std::size_t c) const {
    const std::size_t width = schema_.columns[c].type == ColumnType::text ? kTextBytes : 8;
    std::vector<std::byte> block(width * buffer_.size());
    std::byte* place = block.data();
    for (const std::vector<Row::Value>& row : buffer_) {
      if (const auto* integer = std::get_if<std::int64_t>(&row[c]))
        std::memcpy(place, integer, sizeof *integer);
      else if (const auto* real = std::get_if<double>(&row[c]))
        std::memcpy(place, real, sizeof *real);
      else
        std::memcpy(place, std::get<std::string>(row[c]).data(),
                    std::get<std::string>(row[c]).size());
      place += width;
    }
    return block;
  }

  TableSchema schema_;
  std::vector<H5Handle> datasets_;
  std::vector<std::vector<Row::Value>> buffer_;
  std::int64_t written_ = 0;
};

}  // namespace

struct RunFile::State {
  std::filesystem::path path;
  H5Handle file;
  std::deque<Table> tables;
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

  void write_and_flush() {
    for (Table& table : tables) table.write();
    h5_check(H5Fflush(file, H5F_SCOPE_GLOBAL), "flush the file");
    last_flush = SteadyClock::now();
  }
};

RunFile::RunFile(const std::filesystem::path& path, const std::string& config_text,
                 const std::vector<const TableSchema*>& tables)
    : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->keeping_first_error([&] {
    state_->file = h5::create_file(path);
    h5::write_identity(state_->file, h5::kRunType, config_text);
    h5::write_attribute(state_->file, "date",
                        formatted("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))));
    for (const TableSchema* schema : tables) state_->tables.emplace_back(state_->file, *schema);
    state_->write_and_flush();
  });
}

RunFile::RunFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
RunFile::RunFile(RunFile&&) noexcept = default;
RunFile& RunFile::operator=(RunFile&&) noexcept = default;

RunFile RunFile::reopen(const std::filesystem::path& path, const std::string& config_text,
                        const std::vector<const TableSchema*>& tables) {
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

void RunFile::add_table(const TableSchema& schema) {
  ESPALIER_CHECK(schema.path.starts_with("/method/"), "table {} is not below /method", schema.path);
  ESPALIER_CHECK(!schema.columns.empty() && state_->find(schema.path) == nullptr,
                 "table {} is empty or there already", schema.path);
  state_->keeping_first_error([&] {
    const bool method =
        h5_check(H5Lexists(state_->file, "/method", H5P_DEFAULT), "look for /method") > 0;
    const bool there = method && h5_check(H5Lexists(state_->file, schema.path.c_str(), H5P_DEFAULT),
                                          "look for " + schema.path) > 0;
    if (there)
      state_->tables.push_back(Table::open(state_->file, schema));
    else
      state_->tables.emplace_back(state_->file, schema);
  });
}

void RunFile::append(const Row& row) {
  if (state_->error) throw OutputError(*state_->error);
  Table* table = state_->find(row.schema().path);
  ESPALIER_CHECK(state_->file && table != nullptr, "no open table {}", row.schema().path);
  ESPALIER_CHECK(row.values().size() == table->schema().columns.size(),
                 "a row of {} has other columns", row.schema().path);
  table->append(row);
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

Bytes RunFile::image() {
  flush();
  Bytes bytes;
  state_->keeping_first_error([&] {
    std::ifstream in(state_->path, std::ios::binary | std::ios::ate);
    bytes.resize(static_cast<std::size_t>(std::max<std::streamoff>(0, in.tellg())));
    in.seekg(0);
    in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!in) throw OutputError("it cannot be read back");
  });
  return bytes;
}

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
