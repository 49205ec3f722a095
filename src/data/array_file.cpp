#include "array_file.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <optional>
#include <string_view>

#include "files.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little,
              "numbers are used in the byte order of files");

struct Kind {
  Element element;
  const char* name;
  const char* npy;  // without the byte order
  std::int64_t bytes;
};
constexpr Kind kKinds[] = {
    {Element::boolean, "bool", "b1", 1}, {Element::u8, "uint8", "u1", 1},
    {Element::i8, "int8", "i1", 1},      {Element::u16, "uint16", "u2", 2},
    {Element::i16, "int16", "i2", 2},    {Element::u32, "uint32", "u4", 4},
    {Element::i32, "int32", "i4", 4},    {Element::u64, "uint64", "u8", 8},
    {Element::i64, "int64", "i8", 8},    {Element::f16, "float16", "f2", 2},
    {Element::f32, "float32", "f4", 4},  {Element::f64, "float64", "f8", 8},
};
const Kind& kind_of(Element element) {
  return *std::find_if(std::begin(kKinds), std::end(kKinds),
                       [&](const Kind& kind) { return kind.element == element; });
}

DataError bad_header(const fs::path& path) {
  return DataError(formatted(
      "{} is not a readable npy file: its header is damaged; write it again with numpy.save",
      path.string()));
}

/// The text after 'key': in an npy header, which is a Python dict.
std::string_view entry(std::string_view header, std::string_view key, const fs::path& path) {
  const std::size_t at =
      std::min(header.find(formatted("'{}':", key)), header.find(formatted("\"{}\":", key)));
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
    if (text[0] == ',' || text[0] == ' ' || (text[0] == 'L' && !shape.empty())) {  // Python 2: 6L
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

struct NpyType {
  Element element;
  bool swapped;  ///< big-endian
};

NpyType npy_type(std::string_view text, const fs::path& path) {
  const std::size_t end = text.find_first_of("'\"", 1);
  if ((!text.starts_with('\'') && !text.starts_with('"')) || end == std::string_view::npos) {
    throw DataError(formatted("{} holds records instead of plain numbers: save their columns as {}",
                              path.string(), kPlainNumbers));
  }
  const std::string_view type = text.substr(1, end - 1);
  for (const Kind& kind : kKinds) {
    if (type.size() == 3 && type.substr(1) == kind.npy) return {kind.element, type[0] == '>'};
  }
  throw DataError(
      formatted("{} holds values of type '{}' instead of plain numbers: save them as {}",
                path.string(), type, kPlainNumbers));
}

/// The same numbers, row by row and in this machine's byte order, as a copy.
Array rearranged(const Array& array, bool by_column, bool swapped) {
  const auto bytes = static_cast<std::size_t>(element_bytes(array.element));
  const std::size_t axes = array.shape.size();
  std::vector<std::size_t> stride(axes);
  std::size_t next = bytes;
  for (std::size_t k = 0; k < axes; ++k) {
    const std::size_t axis = by_column ? k : axes - 1 - k;
    stride[axis] = next;
    next *= static_cast<std::size_t>(array.shape[axis]);
  }
  std::vector<std::uint8_t> values(static_cast<std::size_t>(array.rows() * array.per_row()) *
                                   bytes);
  std::vector<std::int64_t> place(axes);
  const std::uint8_t* in = array.data;
  for (std::uint8_t* out = values.data(); out != values.data() + values.size(); out += bytes) {
    std::copy_n(in, bytes, out);
    if (swapped) std::reverse(out, out + bytes);
    for (std::size_t i = axes; i-- > 0;) {
      in += stride[i];
      if (++place[i] < array.shape[i]) break;
      in -= stride[i] * static_cast<std::size_t>(place[i]);
      place[i] = 0;
    }
  }
  return array_of(array.name, array.element, array.shape, std::move(values));
}

}  // namespace

const char* element_name(Element element) { return kind_of(element).name; }

std::int64_t element_bytes(Element element) { return kind_of(element).bytes; }

std::int64_t Array::per_row() const {
  std::int64_t product = 1;
  for (std::size_t i = 1; i < shape.size(); ++i) product *= shape[i];
  return product;
}

std::optional<std::int64_t> bytes_of(const std::vector<std::int64_t>& shape, Element element) {
  constexpr std::int64_t kMost = std::int64_t{1} << 50;
  std::int64_t bytes = element_bytes(element);
  for (const std::int64_t extent : shape) {
    if (extent < 0 || (extent > 0 && bytes > kMost / extent)) return std::nullopt;
    bytes *= extent;
  }
  return bytes;
}

Array read(const OpenArray& open) {
  Array array = open.array;
  if (open.fill) open.fill(array);
  return array;
}

OpenArray open_npy(const fs::path& path) {
  // The header: a magic string, the version, the length of a Python dict, the dict. Format:
  // https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
  auto file = std::make_shared<const MappedFile>(path);
  const std::span<const std::uint8_t> bytes = file->bytes();
  constexpr std::string_view kMagic = "\x93NUMPY";
  const std::string_view content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!content.starts_with(kMagic)) {
    throw DataError(formatted("{} is not an npy file; write it with numpy.save", path.string()));
  }
  const std::size_t length_bytes = bytes.size() > 6 && bytes[6] == 1 ? 2 : 4;
  std::size_t begin = 8 + length_bytes;
  if (bytes.size() < begin) throw bad_header(path);
  std::size_t length = 0;
  for (std::size_t i = length_bytes; i > 0; --i) length = length << 8 | bytes[7 + i];
  if (length > bytes.size() - begin) throw bad_header(path);
  const std::string_view header = content.substr(begin, length);
  begin += length;

  const NpyType type = npy_type(entry(header, "descr", path), path);
  Array array{path.string(), type.element, npy_shape(entry(header, "shape", path), path), nullptr,
              nullptr};
  const auto expected = bytes_of(array.shape, array.element);
  const auto available = static_cast<std::int64_t>(bytes.size() - begin);
  if (!expected || *expected != available) {
    throw DataError(
        formatted("{} {}: its header announces {} bytes, it has {}; write it again", path.string(),
                  !expected || available < *expected ? "is cut short" : "has bytes after its end",
                  expected ? formatted("{}", *expected) : "more", available));
  }
  array.data = bytes.data() + begin;
  array.owner = std::move(file);
  const bool by_column =
      array.shape.size() > 1 && !entry(header, "fortran_order", path).starts_with("False");
  const bool swapped = type.swapped;
  if (!by_column && !swapped) return {std::move(array), nullptr};
  return {std::move(array), [=](Array& whole) { whole = rearranged(whole, by_column, swapped); }};
}

}  // namespace espalier
