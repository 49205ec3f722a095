#pragma once
// The few HDF5 idioms that run file, checkpoint and comparison share: files opened plainly and
// without locks, attributes, listing of groups, and reading of any dataset or attribute into
// comparable values.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/base/hdf5.h"

namespace espalier::h5 {

inline constexpr std::int64_t kMajor = 1;
inline constexpr std::int64_t kMinor = 0;
inline constexpr const char* kRunType = "espalier run";
inline constexpr const char* kCheckpointType = "espalier checkpoint";

/// An error's first clause and the operating system's reason, where HDF5 gives one: without this a
/// full disk is reported with a dozen of the library's inner function names.
std::string brief(const std::string& message);

/// How all files are opened: without locks, and closed with all handles into them.
H5Handle access_list();
/// Creates or truncates.
H5Handle create_file(const std::filesystem::path& path);
/// Throws an OutputError that says so where there is no such file, or a folder.
void require_file(const std::filesystem::path& path);
H5Handle open_file(const std::filesystem::path& path, bool writable = false);

/// Root attributes that both kinds of file carry: filetype, version, software, its version and
/// commit, config.
void write_identity(hid_t file, const char* filetype, const std::string& config_text);
/// kRunType or kCheckpointType; OutputError for anything else or another major version.
std::string check_identity(hid_t file, const std::filesystem::path& path);

void write_attribute(hid_t object, const char* name, const std::string& text);
void write_attribute(hid_t object, const char* name, std::span<const std::int64_t> values);
void write_attribute(hid_t object, const char* name, std::int64_t value);
bool has_attribute(hid_t object, const char* name);
std::string text_attribute(hid_t object, const char* name);
std::vector<std::int64_t> integer_attribute(hid_t object, const char* name);

/// Names in `group`, ascending.
std::vector<std::string> children(hid_t group);
std::vector<std::string> attribute_names(hid_t object);
bool is_group(hid_t object);
/// A member of `group`, whatever its kind.
H5Handle open_object(hid_t group, const std::string& name);
/// A dataset's elements.
std::int64_t elements(hid_t dataset);
/// Rows of a table: those of its shortest column. A kill may leave the others one longer.
std::int64_t table_rows(hid_t table);
/// Absolute name within the file.
std::string object_name(hid_t object);

/// Elements of a dataset or attribute in the host's own types.
struct Values {
  H5T_class_t kind = H5T_NO_CLASS;
  bool is_signed = true;
  std::size_t element_bytes = 0;   ///< of one number; 0 for texts
  std::vector<std::byte> numbers;  ///< unless kind is H5T_STRING
  std::vector<std::string> texts;  ///< without trailing nulls
  std::int64_t count() const;
  /// "int64", "float32", "text".
  std::string type_name() const;
  bool same_type(const Values& other) const;
  /// Bit for bit, but any NaN equals any other.
  bool equal(const Values& other, std::int64_t i) const;
  std::string show(std::int64_t i) const;
};
/// The first `limit` elements (all if negative) of a one-dimensional dataset, or all of any other.
Values read_dataset(hid_t dataset, std::int64_t limit = -1);
Values read_attribute(hid_t object, const std::string& name);

}  // namespace espalier::h5
