#include "array_file.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <optional>
#include <string_view>

#include "espalier/base/hdf5.h"
#include "files.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "numbers are used as files have them");

struct Kind {
  Element element;
  const char* name;
  const char* npy;
  std::int64_t bytes;
};
constexpr Kind kKinds[] = {
    {Element::u8, "uint8", "|u1", 1},    {Element::i8, "int8", "|i1", 1},
    {Element::u16, "uint16", "<u2", 2},  {Element::i16, "int16", "<i2", 2},
    {Element::u32, "uint32", "<u4", 4},  {Element::i32, "int32", "<i4", 4},
    {Element::u64, "uint64", "<u8", 8},  {Element::i64, "int64", "<i8", 8},
    {Element::f32, "float32", "<f4", 4}, {Element::f64, "float64", "<f8", 8},
};

/// Bytes of an array, or nothing where the extents are out of all bounds.
std::optional<std::int64_t> bytes_of(const std::vector<std::int64_t>& shape, Element element) {
  constexpr std::int64_t kMost = std::int64_t{1} << 50;
  std::int64_t bytes = element_bytes(element);
  for (const std::int64_t extent : shape) {
    if (extent < 0 || (extent > 0 && bytes > kMost / extent)) return std::nullopt;
    bytes *= extent;
  }
  return bytes;
}

DataError bad_header(const fs::path& path) {
  return DataError(
      formatted("{} is no npy file that can be read: its header is damaged; write it again with "
                "numpy.save",
                path.string()));
}

/// The text after 'key': in an npy header, which is a Python dict.
std::string_view entry(std::string_view header, std::string_view key, const fs::path& path) {
  const std::size_t at = header.find(formatted("'{}':", key));
  if (at == std::string_view::npos) throw bad_header(path);
  header.remove_prefix(at + key.size() + 3);
  const std::size_t first = header.find_first_not_of(' ');
  if (first == std::string_view::npos) throw bad_header(path);
  return header.substr(first);
}

std::vector<std::int64_t> npy_shape(std::string_view text, const fs::path& path) {
  const std::size_t end = text.find(')');
  if (!text.starts_with('(') || end == std::string_view::npos) throw bad_header(path);
  text = text.substr(1, end - 1);
  std::vector<std::int64_t> shape;
  while (!text.empty()) {
    if (text[0] == ',' || text[0] == ' ') {
      text.remove_prefix(1);
      continue;
    }
    std::int64_t extent = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), extent);
    if (error != std::errc{} || extent < 0) throw bad_header(path);
    text.remove_prefix(static_cast<std::size_t>(stop - text.data()));
    shape.push_back(extent);
  }
  return shape;
}

Element npy_element(std::string_view text, const fs::path& path) {
  const std::size_t end = text.find('\'', 1);
  if (!text.starts_with('\'') || end == std::string_view::npos) {
    throw DataError(formatted("{} holds records instead of plain numbers", path.string()));
  }
  const std::string_view type = text.substr(1, end - 1);
  if (type == "|b1") return Element::u8;
  for (const Kind& kind : kKinds) {
    if (type == kind.npy) return kind.element;
  }
  throw DataError(formatted(
      "{} holds numbers of type '{}': save them as little-endian float32, float64 or integers",
      path.string(), type));
}

Element hdf5_element(hid_t type, const std::string& name) {
  const H5T_class_t kind = H5Tget_class(type);
  const auto bytes = static_cast<std::int64_t>(H5Tget_size(type));
  for (const Kind& candidate : kKinds) {
    const bool is_float = candidate.element == Element::f32 || candidate.element == Element::f64;
    const bool is_signed = candidate.name[0] == 'i';
    if (kind != (is_float ? H5T_FLOAT : H5T_INTEGER) || bytes != candidate.bytes) continue;
    if (is_float || is_signed == (H5Tget_sign(type) == H5T_SGN_2)) return candidate.element;
  }
  throw DataError(
      formatted("{} holds no plain numbers of 1, 2, 4 or 8 bytes: write it as float32, float64 "
                "or integers",
                name));
}

hid_t native_type(Element element) {
  switch (element) {
    case Element::u8:
      return H5T_NATIVE_UINT8;
    case Element::i8:
      return H5T_NATIVE_INT8;
    case Element::u16:
      return H5T_NATIVE_UINT16;
    case Element::i16:
      return H5T_NATIVE_INT16;
    case Element::u32:
      return H5T_NATIVE_UINT32;
    case Element::i32:
      return H5T_NATIVE_INT32;
    case Element::u64:
      return H5T_NATIVE_UINT64;
    case Element::i64:
      return H5T_NATIVE_INT64;
    case Element::f32:
      return H5T_NATIVE_FLOAT;
    case Element::f64:
      return H5T_NATIVE_DOUBLE;
  }
  ESPALIER_CHECK(false, "element type {}", static_cast<int>(element));
}

Array open_dataset(hid_t file, const std::string& dataset, const std::string& name,
                   const std::shared_ptr<const MappedFile>& mapped) {
  const H5Handle object(H5Dopen2(file, dataset.c_str(), H5P_DEFAULT), H5Dclose);
  const H5Handle type(H5Dget_type(object), H5Tclose);
  const H5Handle space(H5Dget_space(object), H5Sclose);
  Array array{name, hdf5_element(type, name), {}, nullptr, nullptr};
  std::vector<hsize_t> extents(
      static_cast<std::size_t>(h5_check(H5Sget_simple_extent_ndims(space), "read its extents")));
  h5_check(H5Sget_simple_extent_dims(space, extents.data(), nullptr), "read its extents");
  array.shape.assign(extents.begin(), extents.end());
  const auto bytes = bytes_of(array.shape, array.element);
  if (!bytes) throw DataError(formatted("{} is too large to be true", name));
  const haddr_t offset = H5Dget_offset(object);
  const bool plain = H5Tequal(type, native_type(array.element)) > 0;
  if (offset != HADDR_UNDEF && plain) {
    if (offset + static_cast<haddr_t>(*bytes) > mapped->bytes().size()) {
      throw DataError(formatted("{} is cut short: copy the file again", name));
    }
    array.data = mapped->bytes().data() + offset;
    array.owner = mapped;
    return array;
  }
  auto values = std::make_shared<std::vector<std::uint8_t>>(static_cast<std::size_t>(*bytes));
  h5_check(
      H5Dread(object, native_type(array.element), H5S_ALL, H5S_ALL, H5P_DEFAULT, values->data()),
      "read its values");
  array.data = values->data();
  array.owner = values;
  return array;
}

}  // namespace

const char* element_name(Element element) {
  return std::find_if(std::begin(kKinds), std::end(kKinds),
                      [&](const Kind& kind) { return kind.element == element; })
      ->name;
}

std::int64_t element_bytes(Element element) {
  return std::find_if(std::begin(kKinds), std::end(kKinds),
                      [&](const Kind& kind) { return kind.element == element; })
      ->bytes;
}

std::int64_t Array::per_row() const {
  std::int64_t product = 1;
  for (std::size_t i = 1; i < shape.size(); ++i) product *= shape[i];
  return product;
}

Array open_npy(const fs::path& path) {
  // The header: a magic string, the version, the length of a Python dict, the dict. Format:
  // https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
  auto file = std::make_shared<const MappedFile>(path);
  const std::span<const std::uint8_t> bytes = file->bytes();
  constexpr std::string_view kMagic = "\x93NUMPY";
  const std::string_view content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!content.starts_with(kMagic)) {
    throw DataError(formatted("{} is no npy file; write it with numpy.save", path.string()));
  }
  const std::size_t length_bytes = bytes.size() > 6 && bytes[6] == 1 ? 2 : 4;
  std::size_t begin = 8 + length_bytes;
  if (bytes.size() < begin) throw bad_header(path);
  std::size_t length = 0;
  for (std::size_t i = length_bytes; i > 0; --i) length = length << 8 | bytes[7 + i];
  if (length > bytes.size() - begin) throw bad_header(path);
  const std::string_view header = content.substr(begin, length);
  begin += length;

  Array array{path.string(), npy_element(entry(header, "descr", path), path),
              npy_shape(entry(header, "shape", path), path), nullptr, nullptr};
  if (!entry(header, "fortran_order", path).starts_with("False") && array.shape.size() > 1) {
    throw DataError(
        formatted("{} holds its numbers column by column: save numpy.ascontiguousarray of them",
                  path.string()));
  }
  const auto expected = bytes_of(array.shape, array.element);
  const auto there = static_cast<std::int64_t>(bytes.size() - begin);
  if (!expected || *expected != there) {
    throw DataError(formatted(
        "{} {}: its header announces {} bytes, {} are there; write it again", path.string(),
        !expected || there < *expected ? "is cut short" : "has bytes after its end",
        expected ? formatted("{}", *expected) : "more", there));
  }
  array.data = bytes.data() + begin;
  array.owner = std::move(file);
  return array;
}

std::map<std::string, Array> open_hdf5(const fs::path& path,
                                       const std::vector<std::string>& names) {
  h5_quiet();
  const auto mapped = std::make_shared<const MappedFile>(path);
  std::map<std::string, Array> arrays;
  std::string name = path.string();
  try {
    const H5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    h5_check(H5Pset_file_locking(access, false, true), "turn HDF5 file locking off");
    const H5Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), H5Fclose);
    for (const std::string& dataset : names) {
      if (h5_check(H5Lexists(file, dataset.c_str(), H5P_DEFAULT), "look for it") == 0) continue;
      name = formatted("{}: {}", path.string(), dataset);
      arrays.emplace(dataset, open_dataset(file, dataset, name, mapped));
    }
  } catch (const OutputError&) {
    // HDF5's own reason is a dozen of its function names.
    throw DataError(formatted(
        "{} cannot be read: it is {}, or is damaged or cut short", name,
        name == path.string() ? "no HDF5 file" : "no dataset, or compressed in an unknown way"));
  }
  return arrays;
}

}  // namespace espalier
