#include "h5_io.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/record/software.h"

namespace espalier::h5 {

namespace {

// Strong closing: a handle forgotten somewhere must not keep a file open that is about to be
// renamed.
H5Handle access_list() {
  h5_quiet();
  H5Handle list(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  h5_check(H5Pset_file_locking(list, false, true), "turn HDF5 file locking off");
  h5_check(H5Pset_fclose_degree(list, H5F_CLOSE_STRONG), "set how HDF5 files close");
  return list;
}

H5Handle text_type() {
  H5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  h5_check(H5Tset_size(type, H5T_VARIABLE), "make a text type");
  h5_check(H5Tset_cset(type, H5T_CSET_UTF8), "make a text type");
  return type;
}

H5Handle open_attribute(hid_t object, const std::string& name) {
  return {h5_check(H5Aopen(object, name.c_str(), H5P_DEFAULT), "open attribute " + name), H5Aclose};
}

std::string strip(const char* data, std::size_t size) {
  while (size > 0 && data[size - 1] == '\0') --size;
  return {data, size};
}

// One reader for both: `transfer(memory type, buffer)` does the H5Dread or H5Aread of `count`
// elements that `space` describes.
template <class Transfer>
Values read_values(hid_t file_type, hid_t space, std::int64_t count, bool empty_space,
                   const Transfer& transfer) {
  Values values;
  values.kind = H5Tget_class(file_type);
  if (values.kind == H5T_STRING) {
    if (empty_space) {
      values.texts.emplace_back();
      return values;
    }
    values.texts.reserve(static_cast<std::size_t>(count));
    if (h5_check(H5Tis_variable_str(file_type), "read a text type") > 0) {
      std::vector<char*> pointers(static_cast<std::size_t>(count), nullptr);
      if (count > 0) transfer(file_type, pointers.data());
      for (const char* text : pointers) values.texts.emplace_back(text == nullptr ? "" : text);
      if (count > 0)
        h5_check(H5Dvlen_reclaim(file_type, space, H5P_DEFAULT, pointers.data()), "free texts");
    } else {
      const std::size_t width = H5Tget_size(file_type);
      std::vector<char> block(width * static_cast<std::size_t>(count));
      if (count > 0) transfer(file_type, block.data());
      for (std::int64_t i = 0; i < count; ++i)
        values.texts.push_back(strip(block.data() + width * static_cast<std::size_t>(i), width));
    }
    return values;
  }
  const H5Handle memory(h5_check(H5Tget_native_type(file_type, H5T_DIR_ASCEND), "read a type"),
                        H5Tclose);
  values.element_bytes = H5Tget_size(memory);
  values.is_signed = values.kind != H5T_INTEGER || H5Tget_sign(memory) == H5T_SGN_2;
  values.numbers.resize(values.element_bytes * static_cast<std::size_t>(count));
  if (count > 0) transfer(memory, values.numbers.data());
  return values;
}

template <class T>
T element(const Values& values, std::int64_t i) {
  T value;
  std::memcpy(&value, values.numbers.data() + sizeof(T) * static_cast<std::size_t>(i), sizeof(T));
  return value;
}

/// HDF5 takes two files in memory for the same one if their names are equal.
std::string memory_name() {
  static std::int64_t made = 0;
  return formatted("in memory {}", ++made);
}

}  // namespace

std::string brief(const std::string& message) {
  const std::string_view system = "error message = '";
  const auto at = message.find(system);
  if (at == std::string::npos) return message.substr(0, message.find('\n'));
  const auto begin = at + system.size();
  const std::string reason = message.substr(begin, message.find('\'', begin) - begin);
  return message.substr(0, message.find(": ")) + ": " + reason;
}

H5Handle create_file(const std::filesystem::path& path) {
  const H5Handle access = access_list();
  return {h5_check(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access),
                   "create " + path.string() + " (is its folder there, and may you write in it?)"),
          H5Fclose};
}

MemoryFile::MemoryFile() {
  constexpr std::size_t kGrowth = std::size_t{16} << 20;
  H5FD_file_image_callbacks_t buffer = {};
  buffer.udata = &buffer_;
  buffer.udata_copy = [](void* data) { return data; };
  buffer.udata_free = [](void*) -> herr_t { return 0; };
  buffer.image_malloc = [](std::size_t size, H5FD_file_image_op_t, void*) {
    return std::malloc(size);
  };
  buffer.image_realloc = [](void* old, std::size_t size, H5FD_file_image_op_t, void*) {
    return std::realloc(old, size);
  };
  buffer.image_memcpy = [](void* to, const void* from, std::size_t size, H5FD_file_image_op_t,
                           void*) { return std::memcpy(to, from, size); };
  buffer.image_free = [](void* data, H5FD_file_image_op_t, void* place) -> herr_t {
    *static_cast<void**>(place) = data;
    return 0;
  };
  const H5Handle access = access_list();
  h5_check(H5Pset_fapl_core(access, kGrowth, false), "keep a file in memory");
  h5_check(H5Pset_file_image_callbacks(access, &buffer), "keep a file in memory");
  file_ = {h5_check(H5Fcreate(memory_name().c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access),
                    "create a file"),
           H5Fclose};
}

MemoryFile::~MemoryFile() {
  file_ = {};
  std::free(buffer_);
}

FileImage MemoryFile::finish() {
  h5_check(H5Fflush(file_, H5F_SCOPE_GLOBAL), "complete a file in memory");
  const ssize_t size = H5Fget_file_image(file_, nullptr, 0);
  if (size < 0) throw OutputError("cannot tell the size of a file in memory");
  file_.close();
  return {{static_cast<const std::byte*>(std::exchange(buffer_, nullptr)),
           [](const std::byte* data) { std::free(const_cast<std::byte*>(data)); }},
          static_cast<std::size_t>(size)};
}

void require_file(const std::filesystem::path& path) {
  std::error_code ignored;
  const auto status = std::filesystem::status(path, ignored);
  if (std::filesystem::is_directory(status)) {
    const bool is_run = std::filesystem::exists(path / "run.h5", ignored);
    throw OutputError(formatted("{} is a folder; name a file{}", path.string(),
                                is_run ? ", as " + (path / "run.h5").string() : ""));
  }
  if (!std::filesystem::exists(status))
    throw OutputError(formatted("there is no file {}; check its name", path.string()));
  // Opening a pipe would wait for its writer.
  if (!std::filesystem::is_regular_file(status))
    throw OutputError(formatted("{} is a pipe or a device; name a file", path.string()));
}

H5Handle open_file(const std::filesystem::path& path, bool writable) {
  require_file(path);
  const H5Handle access = access_list();
  return {h5_check(H5Fopen(path.c_str(), writable ? H5F_ACC_RDWR : H5F_ACC_RDONLY, access),
                   "open " + path.string()),
          H5Fclose};
}

void write_identity(hid_t file, const char* filetype, const std::string& config_text) {
  write_attribute(file, "filetype", std::string(filetype));
  write_attribute(file, "version", std::vector<std::int64_t>{kMajor, kMinor});
  write_attribute(file, "software", std::string("espalier"));
  write_attribute(file, "software_version", software_version());
  write_attribute(file, "git_sha", software_git_sha());
  write_attribute(file, "config", config_text);
}

std::string check_identity(hid_t file, const std::filesystem::path& path) {
  std::string filetype;
  if (has_attribute(file, "filetype")) filetype = text_attribute(file, "filetype");
  if (filetype != kRunType && filetype != kCheckpointType)
    throw OutputError(formatted(
        "{} is neither a run file nor a checkpoint of espalier; give one of those", path.string()));
  const std::vector<std::int64_t> version = integer_attribute(file, "version");
  if (version.size() != 2 || version[0] != kMajor)
    throw OutputError(formatted(
        "{} has format version {}, and this program reads {}.x; use the release that wrote it",
        path.string(), fmt::join(version, "."), kMajor));
  return filetype;
}

void write_attribute(hid_t object, const char* name, const std::string& text) {
  const H5Handle type = text_type();
  const H5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const H5Handle attribute(h5_check(H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT),
                                    formatted("create attribute {}", name)),
                           H5Aclose);
  const char* data = text.c_str();
  h5_check(H5Awrite(attribute, type, &data), formatted("write attribute {}", name));
}

void write_attribute(hid_t object, const char* name, std::span<const std::int64_t> values) {
  const hsize_t count = values.size();
  const H5Handle space(H5Screate_simple(1, &count, nullptr), H5Sclose);
  const H5Handle attribute(
      h5_check(H5Acreate2(object, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT),
               formatted("create attribute {}", name)),
      H5Aclose);
  h5_check(H5Awrite(attribute, H5T_NATIVE_INT64, values.data()),
           formatted("write attribute {}", name));
}

void write_attribute(hid_t object, const char* name, std::int64_t value) {
  const H5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const H5Handle attribute(
      h5_check(H5Acreate2(object, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT),
               formatted("create attribute {}", name)),
      H5Aclose);
  h5_check(H5Awrite(attribute, H5T_NATIVE_INT64, &value), formatted("write attribute {}", name));
}

bool has_attribute(hid_t object, const char* name) {
  return h5_check(H5Aexists(object, name), formatted("look for attribute {}", name)) > 0;
}

std::string text_attribute(hid_t object, const char* name) {
  const Values values = read_attribute(object, name);
  if (values.texts.size() != 1) throw OutputError(formatted("attribute {} is not a text", name));
  return values.texts[0];
}

std::vector<std::int64_t> integer_attribute(hid_t object, const char* name) {
  const Values values = read_attribute(object, name);
  if (values.kind != H5T_INTEGER || values.element_bytes != sizeof(std::int64_t))
    throw OutputError(formatted("attribute {} is not a 64-bit integer", name));
  std::vector<std::int64_t> integers(values.numbers.size() / sizeof(std::int64_t));
  if (!integers.empty()) std::memcpy(integers.data(), values.numbers.data(), values.numbers.size());
  return integers;
}

std::vector<std::string> children(hid_t group) {
  std::vector<std::string> names;
  const auto collect = [](hid_t, const char* name, const H5L_info_t*, void* list) -> herr_t {
    static_cast<std::vector<std::string>*>(list)->emplace_back(name);
    return 0;
  };
  h5_check(H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names), "list a group");
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> attribute_names(hid_t object) {
  std::vector<std::string> names;
  const auto collect = [](hid_t, const char* name, const H5A_info_t*, void* list) -> herr_t {
    static_cast<std::vector<std::string>*>(list)->emplace_back(name);
    return 0;
  };
  h5_check(H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names),
           "list attributes");
  std::sort(names.begin(), names.end());
  return names;
}

bool is_group(hid_t object) { return H5Iget_type(object) == H5I_GROUP; }

H5Handle open_object(hid_t group, const std::string& name) {
  return {h5_check(H5Oopen(group, name.c_str(), H5P_DEFAULT), "open " + name), H5Oclose};
}

std::int64_t elements(hid_t dataset) {
  const H5Handle space(h5_check(H5Dget_space(dataset), "read a dataset's shape"), H5Sclose);
  return h5_check(H5Sget_simple_extent_npoints(space), "read a dataset's shape");
}

std::int64_t table_rows(hid_t table) {
  std::int64_t rows = -1;
  for (const std::string& name : children(table)) {
    const std::int64_t length = elements(open_object(table, name));
    rows = rows < 0 ? length : std::min(rows, length);
  }
  return std::max<std::int64_t>(rows, 0);
}

std::string object_name(hid_t object) {
  const auto size = h5_check(H5Iget_name(object, nullptr, 0), "read an object's name");
  std::string name(static_cast<std::size_t>(size), '\0');
  h5_check(H5Iget_name(object, name.data(), name.size() + 1), "read an object's name");
  return name;
}

std::int64_t Values::count() const {
  if (kind == H5T_STRING) return static_cast<std::int64_t>(texts.size());
  return element_bytes == 0 ? 0 : static_cast<std::int64_t>(numbers.size() / element_bytes);
}

std::string Values::type_name() const {
  switch (kind) {
    case H5T_STRING:
      return "text";
    case H5T_INTEGER:
      return formatted("{}int{}", is_signed ? "" : "u", 8 * element_bytes);
    case H5T_FLOAT:
      return formatted("float{}", 8 * element_bytes);
    default:
      return formatted("other, {} bytes", element_bytes);
  }
}

bool Values::same_type(const Values& other) const {
  return kind == other.kind && is_signed == other.is_signed && element_bytes == other.element_bytes;
}

bool Values::equal(const Values& other, std::int64_t i) const {
  if (kind == H5T_STRING)
    return texts[static_cast<std::size_t>(i)] == other.texts[static_cast<std::size_t>(i)];
  const std::size_t at = element_bytes * static_cast<std::size_t>(i);
  if (std::memcmp(numbers.data() + at, other.numbers.data() + at, element_bytes) == 0) return true;
  if (kind != H5T_FLOAT) return false;
  if (element_bytes == sizeof(double))
    return std::isnan(element<double>(*this, i)) && std::isnan(element<double>(other, i));
  if (element_bytes == sizeof(float))
    return std::isnan(element<float>(*this, i)) && std::isnan(element<float>(other, i));
  return false;
}

std::string Values::show(std::int64_t i) const {
  if (kind == H5T_STRING) return "'" + texts[static_cast<std::size_t>(i)] + "'";
  if (kind == H5T_FLOAT && element_bytes == 8) return formatted("{}", element<double>(*this, i));
  if (kind == H5T_FLOAT && element_bytes == 4) return formatted("{}", element<float>(*this, i));
  if (kind == H5T_INTEGER && element_bytes == 8)
    return is_signed ? formatted("{}", element<std::int64_t>(*this, i))
                     : formatted("{}", element<std::uint64_t>(*this, i));
  std::string hex = "0x";
  for (std::size_t b = element_bytes; b-- > 0;)
    hex += formatted("{:02x}", std::to_integer<unsigned>(
                                   numbers[element_bytes * static_cast<std::size_t>(i) + b]));
  return hex;
}

Values read_dataset(hid_t dataset, std::int64_t limit) {
  const std::string what = "read " + object_name(dataset);
  const H5Handle type(h5_check(H5Dget_type(dataset), what), H5Tclose);
  const H5Handle space(h5_check(H5Dget_space(dataset), what), H5Sclose);
  const std::int64_t all = h5_check(H5Sget_simple_extent_npoints(space), what);
  const bool empty_space = H5Sget_simple_extent_type(space) == H5S_NULL;
  const bool cut = limit >= 0 && limit < all && H5Sget_simple_extent_ndims(space) == 1;
  const auto count = static_cast<hsize_t>(cut ? limit : all);
  const H5Handle memory_space(h5_check(H5Screate_simple(1, &count, nullptr), what), H5Sclose);
  if (cut) {
    const hsize_t start = 0;
    if (count == 0)
      h5_check(H5Sselect_none(space), what);
    else
      h5_check(H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, nullptr, &count, nullptr), what);
  }
  return read_values(
      type, memory_space, static_cast<std::int64_t>(count), empty_space,
      [&](hid_t memory_type, void* data) {
        h5_check(H5Dread(dataset, memory_type, memory_space, space, H5P_DEFAULT, data), what);
      });
}

Values read_attribute(hid_t object, const std::string& name) {
  const std::string what = "read attribute " + name;
  const H5Handle attribute = open_attribute(object, name);
  const H5Handle type(h5_check(H5Aget_type(attribute), what), H5Tclose);
  const H5Handle space(h5_check(H5Aget_space(attribute), what), H5Sclose);
  const std::int64_t count = h5_check(H5Sget_simple_extent_npoints(space), what);
  return read_values(type, space, count, H5Sget_simple_extent_type(space) == H5S_NULL,
                     [&](hid_t memory_type, void* data) {
                       h5_check(H5Aread(attribute, memory_type, data), what);
                     });
}

}  // namespace espalier::h5
