#pragma once
// Arrays in the user's files, npy or HDF5. They are mapped into memory if the file holds plain
// numbers of this machine's byte order contiguously, row by row, and copied otherwise (npy:
// big-endian or column by column; HDF5: chunked, compressed, or stored in other files).

#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "espalier/base/error.h"

namespace espalier {

enum class Element { boolean, u8, i8, u16, i16, u32, i32, u64, i64, f16, f32, f64 };
const char* element_name(Element element);
std::int64_t element_bytes(Element element);
/// For messages.
inline constexpr const char* kPlainNumbers = "bool, integers or floats of 16, 32 or 64 bits";

/// Bytes of an array, or none if the extents are out of all bounds.
std::optional<std::int64_t> bytes_of(const std::vector<std::int64_t>& shape, Element element);

/// Numbers in C order; the first extent counts rows. Copies refer to the same numbers.
struct Array {
  std::string name;  ///< "x.npy" or "data.h5: x", with its path, for messages
  Element element = Element::f32;
  std::vector<std::int64_t> shape;
  const std::uint8_t* data = nullptr;
  std::shared_ptr<const void> owner;

  std::int64_t rows() const { return shape.empty() ? 0 : shape[0]; }
  /// Numbers of one row.
  std::int64_t per_row() const;
  bool is_float() const {
    return element == Element::f16 || element == Element::f32 || element == Element::f64;
  }
  /// Truth values are integers too: 0 and 1.
  bool is_integer() const { return !is_float(); }
};

/// Calls `work` with a function that loads number i, of the array's own type (a truth value as 0 or
/// 1, a half as a float); numbers in a mapped file need not be aligned.
template <class Work>
auto visit(const Array& array, const Work& work) {
  const auto load = [data = array.data]<class T>(T value, std::int64_t i) {
    std::memcpy(&value, data + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
    return value;
  };
  const auto typed = [&]<class T>(T zero) {
    return work([&load, zero](std::int64_t i) { return load(zero, i); });
  };
  switch (array.element) {
    case Element::boolean:
      return work([&](std::int64_t i) { return load(std::uint8_t{}, i) == 0 ? 0 : 1; });
    case Element::u8:
      return typed(std::uint8_t{});
    case Element::i8:
      return typed(std::int8_t{});
    case Element::u16:
      return typed(std::uint16_t{});
    case Element::i16:
      return typed(std::int16_t{});
    case Element::u32:
      return typed(std::uint32_t{});
    case Element::i32:
      return typed(std::int32_t{});
    case Element::u64:
      return typed(std::uint64_t{});
    case Element::i64:
      return typed(std::int64_t{});
    case Element::f16:
      return work([&](std::int64_t i) { return static_cast<float>(load(c10::Half{}, i)); });
    case Element::f32:
      return typed(float{});
    case Element::f64:
      return typed(double{});
  }
  ESPALIER_CHECK(false, "element type {}", static_cast<int>(array.element));
}

/// An array that owns numbers in memory.
template <class T>
Array array_of(std::string name, Element element, std::vector<std::int64_t> shape,
               std::vector<T> values) {
  auto owner = std::make_shared<const std::vector<T>>(std::move(values));
  const auto* data = reinterpret_cast<const std::uint8_t*>(owner->data());
  return {std::move(name), element, std::move(shape), data, std::move(owner)};
}

/// An array of which only the extents are known, so that they can be refused before numbers are
/// read, which may take a time.
struct OpenArray {
  Array array;
  std::function<void(Array&)> fill;  ///< reads the numbers; empty: they are mapped already
};
/// The array with its numbers.
Array read(const OpenArray& open);

/// One npy file. DataError (file and mistake) if it is damaged, cut short, or does not hold plain
/// numbers.
OpenArray open_npy(const std::filesystem::path& path);

/// The named datasets that the HDF5 file has at its root, also by links, in raw files or as virtual
/// datasets. DataError if one is damaged, cut short or incomplete, or does not hold plain numbers.
/// HDF5 runs in a child process, which a damaged file may crash.
std::map<std::string, OpenArray> open_hdf5(const std::filesystem::path& path,
                                           const std::vector<std::string>& names);

}  // namespace espalier
