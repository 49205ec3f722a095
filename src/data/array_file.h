#pragma once
// Arrays in files of the user's own: npy, or HDF5. They are mapped into memory where the file holds
// plain numbers of this machine's byte order one after the other, and read otherwise (HDF5: chunked
// or compressed).

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/error.h"

namespace espalier {

enum class Element { u8, i8, u16, i16, u32, i32, u64, i64, f32, f64 };
const char* element_name(Element element);
std::int64_t element_bytes(Element element);

/// Numbers in C order; the first extent counts rows. Copies share the numbers.
struct Array {
  std::string name;  ///< "x.npy" or "data.h5: x", with its path, for messages
  Element element = Element::f32;
  std::vector<std::int64_t> shape;
  const std::uint8_t* data = nullptr;
  std::shared_ptr<const void> owner;

  std::int64_t rows() const { return shape.empty() ? 0 : shape[0]; }
  /// Numbers of one row.
  std::int64_t per_row() const;
  bool is_integer() const { return element != Element::f32 && element != Element::f64; }
};

/// Calls `work` with a function that loads number i, of the array's own type; numbers in a mapped
/// file need not be aligned.
template <class Work>
auto visit(const Array& array, const Work& work) {
  const auto typed = [&]<class T>(T) {
    return work([data = array.data](std::int64_t i) {
      T value;
      std::memcpy(&value, data + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
      return value;
    });
  };
  switch (array.element) {
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
    case Element::f32:
      return typed(float{});
    case Element::f64:
      return typed(double{});
  }
  ESPALIER_CHECK(false, "element type {}", static_cast<int>(array.element));
}

/// An array over numbers in memory, which it keeps.
template <class T>
Array array_of(std::string name, Element element, std::vector<std::int64_t> shape,
               std::vector<T> values) {
  auto owner = std::make_shared<const std::vector<T>>(std::move(values));
  const auto* data = reinterpret_cast<const std::uint8_t*>(owner->data());
  return {std::move(name), element, std::move(shape), data, std::move(owner)};
}

/// One npy file. DataError (file and what is wrong) if it is damaged, cut short, or in another
/// order or type than can be used.
Array open_npy(const std::filesystem::path& path);

/// Those of the named datasets that the HDF5 file has, at its root. DataError likewise.
std::map<std::string, Array> open_hdf5(const std::filesystem::path& path,
                                       const std::vector<std::string>& names);

}  // namespace espalier
