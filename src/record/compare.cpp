#include "espalier/record/compare.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include "espalier/base/error.h"
#include "espalier/base/units.h"
#include "espalier/record/outcome.h"
#include "espalier/record/table.h"
#include "h5_io.h"
#include "seal.h"

namespace espalier {

namespace {

using Found = std::optional<std::string>;

/// "section.key" to value, so that order, comments and layout do not count.
std::map<std::string, std::string> config_values(const std::string& text) {
  const auto trim = [](const std::string& word) {
    const auto first = word.find_first_not_of(" \t\r");
    if (first == std::string::npos) return std::string();
    return word.substr(first, word.find_last_not_of(" \t\r") - first + 1);
  };
  std::map<std::string, std::string> values;
  std::istringstream lines(text);
  std::string section;
  for (std::string line; std::getline(lines, line);) {
    line = trim(line);
    if (line.empty() || line[0] == '#' || line[0] == ';') continue;
    if (line.front() == '[' && line.back() == ']') {
      section = trim(line.substr(1, line.size() - 2)) + ".";
      continue;
    }
    const auto equals = line.find('=');
    const std::string key = trim(line.substr(0, equals));
    values[section + key] = equals == std::string::npos ? "" : trim(line.substr(equals + 1));
  }
  return values;
}

bool is_wall_attribute(const std::string& name) {
  return name == "date" || name == "host" || name == "hostname";
}

/// Checksums follow from the values, and differ where only the bits of a NaN do.
bool is_checksum(const std::string& name) {
  return name == "checksum" || name == "config_checksum";
}

/// A column says so by its attribute.
bool is_wall_dataset(const std::string& parent, hid_t dataset) {
  if (parent == "/wall") return true;  // of a checkpoint
  if (!h5::has_attribute(dataset, "wall")) return false;
  const std::vector<std::int64_t> wall = h5::integer_attribute(dataset, "wall");
  return !wall.empty() && wall[0] != 0;
}

/// What `diff --values` leaves aside: of a run file, what its method declares; of a checkpoint, the
/// state of rules and queues, which runs under other settings need not have, and what they did not
/// compute.
bool is_of_settings(const std::string& path) {
  static const std::set<std::string> kOfSettings{"/method",
                                                 "/data",
                                                 "/data_fingerprint",
                                                 "/wall",
                                                 "/server/merge_rule",
                                                 "/server/queues",
                                                 "/server/submodel_rule",
                                                 "/server/window",
                                                 "/server/sampler",
                                                 "/server/failures_told"};
  return kOfSettings.contains(path);
}

class Comparison {
 public:
  Comparison(std::string name_a, std::string name_b, DiffScope scope, bool tables)
      : name_a_(std::move(name_a)), name_b_(std::move(name_b)), scope_(scope), tables_(tables) {}

  Found groups(hid_t a, hid_t b, const std::string& path) const {
    if (Found found = attributes(a, b, path)) return found;
    const std::vector<std::string> names_a = h5::children(a);
    const std::vector<std::string> names_b = h5::children(b);
    const std::int64_t rows_a = valid_rows(a, names_a);
    const std::int64_t rows_b = valid_rows(b, names_b);
    for (const std::string& name : joined(names_a, names_b)) {
      const std::string full = (path == "/" ? "" : path) + "/" + name;
      const bool is_pending = !tables_ && full == "/evaluations";  // as far as they are known
      if (scope_ == DiffScope::values && (is_pending || is_of_settings(full))) continue;
      if (!contains(names_a, name)) return formatted("{} is only in {}", full, name_b_);
      if (!contains(names_b, name)) return formatted("{} is only in {}", full, name_a_);
      const H5Handle object_a = h5::open_object(a, name);
      const H5Handle object_b = h5::open_object(b, name);
      const bool group = h5::is_group(object_a);
      if (group != h5::is_group(object_b))
        return formatted("{} is a group in {} and values in {}", full, group ? name_a_ : name_b_,
                         group ? name_b_ : name_a_);
      if (!group && scope_ != DiffScope::all && is_wall_dataset(path, object_a) &&
          is_wall_dataset(path, object_b))
        continue;
      if (Found found = group ? groups(object_a, object_b, full)
                              : datasets(object_a, object_b, full, rows_a, rows_b))
        return found;
    }
    return std::nullopt;
  }

 private:
  static bool contains(const std::vector<std::string>& names, const std::string& name) {
    return std::binary_search(names.begin(), names.end(), name);
  }

  static std::vector<std::string> joined(const std::vector<std::string>& a,
                                         const std::vector<std::string>& b) {
    std::vector<std::string> names;
    std::set_union(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(names));
    return names;
  }

  /// Rows that every column of a table has; -1 (all) in checkpoints, whose datasets stand alone.
  std::int64_t valid_rows(hid_t group, const std::vector<std::string>& names) const {
    std::int64_t rows = -1;
    if (!tables_) return rows;
    for (const std::string& name : names) {
      const H5Handle object = h5::open_object(group, name);
      if (h5::is_group(object)) continue;
      const std::int64_t length = h5::elements(object);
      rows = rows < 0 ? length : std::min(rows, length);
    }
    return rows;
  }

  Found datasets(hid_t a, hid_t b, const std::string& path, std::int64_t rows_a,
                 std::int64_t rows_b) const {
    const h5::Values values_a = h5::read_dataset(a, rows_a);
    const h5::Values values_b = h5::read_dataset(b, rows_b);
    if (Found found =
            values(values_a, values_b, path, tables_ ? "row" : "value", shape(a) != shape(b)))
      return found;
    return attributes(a, b, path);
  }

  /// Empty for lists, whose length is compared as such; shapes matter for what other programs
  /// wrote.
  static std::vector<hsize_t> shape(hid_t dataset) {
    const H5Handle space(h5_check(H5Dget_space(dataset), "read a shape"), H5Sclose);
    const auto dimensions = h5_check(H5Sget_simple_extent_ndims(space), "read a shape");
    std::vector<hsize_t> sizes(static_cast<std::size_t>(dimensions));
    if (dimensions > 0)
      h5_check(H5Sget_simple_extent_dims(space, sizes.data(), nullptr), "read a shape");
    if (dimensions == 1) sizes[0] = 0;
    return sizes;
  }

  static Found values(const h5::Values& a, const h5::Values& b, const std::string& what,
                      const char* counted, bool shape_differs = false) {
    if (!a.same_type(b))
      return formatted("{} has type {} against {}", what, a.type_name(), b.type_name());
    if (shape_differs) return formatted("{} has another shape", what);
    const std::int64_t common = std::min(a.count(), b.count());
    for (std::int64_t i = 0; i < common; ++i)
      if (!a.equal(b, i))
        return a.count() == 1 && b.count() == 1 && std::string_view(counted) != "row"
                   ? formatted("{}: {} against {}", what, a.show(i), b.show(i))
                   : formatted("{} {} {}: {} against {}", what, counted, i, a.show(i), b.show(i));
    if (a.count() != b.count())
      return formatted("{} has {} {}s against {}", what, a.count(), counted, b.count());
    return std::nullopt;
  }

  Found attributes(hid_t a, hid_t b, const std::string& path) const {
    if (scope_ == DiffScope::values) return std::nullopt;
    const std::vector<std::string> names_a = h5::attribute_names(a);
    const std::vector<std::string> names_b = h5::attribute_names(b);
    for (const std::string& name : joined(names_a, names_b)) {
      if (is_checksum(name)) continue;
      const bool root = path == "/";
      if (scope_ != DiffScope::all && root && is_wall_attribute(name)) continue;
      const std::string what = formatted("attribute {} of {}", name, path);
      if (!contains(names_a, name)) return formatted("{} is only in {}", what, name_b_);
      if (!contains(names_b, name)) return formatted("{} is only in {}", what, name_a_);
      const h5::Values value_a = h5::read_attribute(a, name);
      const h5::Values value_b = h5::read_attribute(b, name);
      const bool config =
          root && name == "config" && value_a.texts.size() == 1 && value_b.texts.size() == 1;
      if (Found found = config ? configs(value_a.texts[0], value_b.texts[0])
                               : values(value_a, value_b, what, "value"))
        return found;
    }
    return std::nullopt;
  }

  Found configs(const std::string& text_a, const std::string& text_b) const {
    std::map<std::string, std::string> a = config_values(text_a);
    std::map<std::string, std::string> b = config_values(text_b);
    if (scope_ != DiffScope::all)
      for (const char* wall : {"run.name", "run.dir", "data.dir"}) {
        a.erase(wall);
        b.erase(wall);
      }
    for (const auto& [key, value] : a) {
      const auto other = b.find(key);
      if (other == b.end()) return formatted("config {} is only in {}", key, name_a_);
      if (other->second != value)
        return formatted("config {}: '{}' against '{}'", key, value, other->second);
    }
    for (const auto& [key, value] : b)
      if (!a.contains(key)) return formatted("config {} is only in {}", key, name_b_);
    return std::nullopt;
  }

  std::string name_a_;
  std::string name_b_;
  DiffScope scope_;
  bool tables_;
};

/// A dataset at any depth below `group` whose extents do not fit the file.
Found beyond_the_file(hid_t group) {
  for (const std::string& name : h5::children(group)) {
    const H5Handle object = h5::open_object(group, name);
    if (h5::is_group(object)) {
      if (Found found = beyond_the_file(object)) return found;
    } else if (!extents_fit(object)) {
      return h5::object_name(object);
    }
  }
  return std::nullopt;
}

struct Size {
  std::int64_t datasets = 0;
  std::int64_t values = 0;
  std::int64_t bytes = 0;
};

Size size_below(hid_t object) {
  if (!h5::is_group(object)) {
    const H5Handle type(h5_check(H5Dget_type(object), "read a type"), H5Tclose);
    const std::int64_t count = h5::elements(object);
    return {1, count, count * static_cast<std::int64_t>(H5Tget_size(type))};
  }
  Size total;
  for (const std::string& name : h5::children(object)) {
    const Size size = size_below(h5::open_object(object, name));
    total.datasets += size.datasets;
    total.values += size.values;
    total.bytes += size.bytes;
  }
  return total;
}

constexpr const char* kChecked = "yes, the checksum of all bytes is right";

std::string line(const std::string& label, const std::string& text) {
  return formatted("{:<16}{}\n", label, text);
}

/// Tables at any depth below `group`, with their valid length.
std::string describe_tables(hid_t group, const std::string& path) {
  constexpr std::size_t kWidth = 100;
  std::string text, list, row;
  std::int64_t columns = 0;
  std::int64_t rows = 0;
  for (const std::string& name : h5::children(group)) {
    const H5Handle object = h5::open_object(group, name);
    if (h5::is_group(object)) {
      text += describe_tables(object, path + "/" + name);
      continue;
    }
    const std::int64_t length = h5::elements(object);
    rows = columns == 0 ? length : std::min(rows, length);
    ++columns;
    const std::string unit =
        h5::has_attribute(object, "units") ? h5::text_attribute(object, "units") : "";
    std::string column = name + (unit.empty() || unit == "1" ? "" : " [" + unit + "]");
    if (!row.empty() && row.size() + 2 + column.size() > kWidth) {
      list += line("", row + ",");
      row.clear();
    }
    row += (row.empty() ? "" : ", ") + std::move(column);
  }
  if (columns > 0)
    text += line(path, formatted("{} row{}, {} columns", rows, rows == 1 ? "" : "s", columns)) +
            list + line("", row);
  return text;
}

/// "name value" for each column of the table's last row that tells how far the run is.
std::string last_row(const H5Handle& table) {
  const std::int64_t rows = h5::table_rows(table);
  std::string text;
  for (const char* name :
       {"round", "version", "virtual_time_s", "set", "train_loss", "loss", "top1", "perplexity"}) {
    if (rows == 0 || H5Lexists(table, name, H5P_DEFAULT) <= 0) continue;
    const h5::Values values = h5::read_dataset(h5::open_object(table, name), rows);
    const std::string value = values.show(rows - 1);
    if (value == "nan") continue;  // this kind of model has none
    text += formatted("{}{} {}", text.empty() ? "" : ", ", name, value);
  }
  return text;
}

/// A line for each table whose rows have an emulated time: "last round", "last evaluation".
std::string describe_progress(hid_t file) {
  std::string text;
  for (const std::string& name : h5::children(file)) {
    const H5Handle table = h5::open_object(file, name);
    if (!h5::is_group(table) || H5Lexists(table, "virtual_time_s", H5P_DEFAULT) <= 0) continue;
    const std::string row = last_row(table);
    const std::string singular = name.ends_with('s') ? name.substr(0, name.size() - 1) : name;
    if (!row.empty()) text += line("last " + singular, row);
  }
  return text;
}

/// "merged 24, out_of_memory 12": those that there are.
std::string describe_outcomes(const std::filesystem::path& run_file) {
  std::string text;
  for (const auto& [name, count] : count_outcomes(run_file)) {
    text += formatted("{}{} {}", text.empty() ? "" : ", ", name, count);
  }
  return text;
}

/// The parts that every protocol's checkpoint has, in words; others by their name.
std::string words_of(const std::string& part) {
  static const std::map<std::string, std::string> words{
      {"model", "global model"},
      {"data", "shape, normalisation and words of the data"},
      {"server", "clock, window, sampling, rules, client states"},
      {"tasks", "tasks in flight, updates not yet merged"},
      {"evaluations", "the last one, and those still to be made"},
      {"wall", "records so far, host times"}};
  const auto found = words.find(part);
  return found == words.end() ? "" : found->second;
}

std::string describe_checkpoint(hid_t file) {
  std::string text = line("complete", kChecked);
  for (const std::string& name : h5::children(file)) {
    const Size size = size_below(h5::open_object(file, name));
    text +=
        line("/" + name, formatted("{:>13} in {:>3} dataset{}  {}", megabytes(size.bytes),
                                   size.datasets, size.datasets == 1 ? " " : "s", words_of(name)));
  }
  if (H5Lexists(file, "server", H5P_DEFAULT) <= 0) return text;
  const H5Handle server = h5::open_object(file, "server");
  const auto number = [&](const char* name) -> std::optional<std::int64_t> {
    if (H5Lexists(server, name, H5P_DEFAULT) <= 0) return std::nullopt;
    const h5::Values values = h5::read_dataset(h5::open_object(server, name));
    std::int64_t value = 0;
    if (values.numbers.size() != sizeof(value)) return std::nullopt;
    std::memcpy(&value, values.numbers.data(), sizeof(value));
    return value;
  };
  if (const auto version = number("version")) text += line("version", fmt::to_string(*version));
  if (const auto now = number("now"))
    text += line("emulated time", formatted("{:.6f} s", static_cast<double>(*now) * 1e-9));
  if (const auto next = number("next_task")) text += line("tasks sent", fmt::to_string(*next));
  return text;
}

/// A file that the user names, of which no dataset announces more than the file holds.
Record open_given(const std::filesystem::path& path) {
  h5::require_file(path);
  char begin[8] = {};
  std::ifstream(path, std::ios::binary).read(begin, sizeof(begin));
  if (std::string_view(begin, sizeof(begin)) != "\x89HDF\r\n\x1a\n")
    throw OutputError(
        formatted("{} is no HDF5 file; give a run.h5 or a checkpoint", path.string()));
  Record record = open_record(path, is_sealed(path));
  if (const auto name = beyond_the_file(record.file))
    throw OutputError(formatted("{} is damaged: {} announces more values than the file holds",
                                path.string(), *name));
  return record;
}

std::string describe(const std::filesystem::path& path) {
  const auto [file, kind, sealed] = open_given(path);
  const std::vector<std::int64_t> version = h5::integer_attribute(file, "version");
  std::string text = line("file", path.string());
  text += line("kind", formatted("{}, format {}", kind, fmt::join(version, ".")));
  text += line("written by", formatted("{} {}, commit {}", h5::text_attribute(file, "software"),
                                       h5::text_attribute(file, "software_version"),
                                       h5::text_attribute(file, "git_sha")));
  if (h5::has_attribute(file, "date")) text += line("date", h5::text_attribute(file, "date"));
  const std::map<std::string, std::string> config =
      config_values(h5::text_attribute(file, "config"));
  for (const char* key : {"run.name", "run.seed", "method.name", "model.name", "data.name"})
    if (const auto found = config.find(key); found != config.end())
      text += line(key, found->second);
  if (kind == h5::kCheckpointType) return text + describe_checkpoint(file);
  text += line("complete", sealed ? kChecked
                                  : "not known: it has no checksum, because the run goes on or was "
                                    "killed, or an older release wrote it");
  text += describe_tables(h5::open_object(file, "/"), "");
  text += describe_progress(file);
  const std::string outcomes = describe_outcomes(path);
  if (!outcomes.empty()) text += line("task outcomes", outcomes);
  return text;
}

}  // namespace

std::optional<std::string> first_difference(const std::filesystem::path& a,
                                            const std::filesystem::path& b, DiffScope scope) {
  const std::string found = read_records({a, b}, [&] {
    const Record record_a = open_given(a);
    const Record record_b = open_given(b);
    if (record_a.kind != record_b.kind)
      return formatted("{} is an {} file, {} an {} file", a.string(), record_a.kind, b.string(),
                       record_b.kind);
    const Comparison comparison(a.string(), b.string(), scope, record_a.kind == h5::kRunType);
    const H5Handle root_a = h5::open_object(record_a.file, "/");
    const H5Handle root_b = h5::open_object(record_b.file, "/");
    return comparison.groups(root_a, root_b, "/").value_or("");
  });
  return found.empty() ? std::nullopt : Found(found);
}

std::string describe_file(const std::filesystem::path& path) {
  return read_records({path}, [&] { return describe(path); });
}

}  // namespace espalier
