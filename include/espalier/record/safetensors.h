#pragma once
// Weights for and from other programs, in the safetensors format: 8 bytes with the header's length,
// a JSON header (name, element type, shape, place of each tensor), then the values, little-endian
// and row-major. Files are read through a memory map, piece by piece, so a tensor costs no memory
// until it is asked for, and none once it is read. Format: github.com/huggingface/safetensors.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace espalier {

/// A tensor of a weights file, read when it is needed.
struct NamedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  /// Writes the `count` values from value `first` on, row-major, as floats. DataError where they
  /// cannot be had.
  std::function<void(std::int64_t first, std::int64_t count, float* values)> read;
  std::int64_t count() const;
  void read_all(float* values) const { read(0, count(), values); }
};

/// The tensors of the file in the order of their values; they keep it open. F32, F16, BF16 and F64
/// can be read, other element types are only listed. DataError naming file and tensor for anything
/// that the format does not allow: sizes that do not add up, ranges that overlap or leave gaps,
/// names given twice, unknown element types, a header past 100 MB, a file cut short.
std::vector<NamedTensor> read_safetensors(const std::filesystem::path& path);

/// The tensors of a model in one or several files: of a safetensors file; of those that an index
/// (model.safetensors.index.json) names; or of a folder with an index, with model.safetensors, or
/// with other safetensors files, all of which are read, in the order of their names. DataError also
/// if files lack tensors that the index places there, or two have a tensor of one name.
std::vector<NamedTensor> read_weights(const std::filesystem::path& path);
/// Whether read_weights() is for such a path, by its name or because it is a folder.
bool is_weights_path(const std::filesystem::path& path);

/// Types of the values of a written file.
enum class FloatType { float32, bfloat16, float16 };
/// "float32", "bfloat16", "float16" and their value.
std::optional<FloatType> float_type(std::string_view name);
const char* float_type_name(FloatType type);

/// Writes the tensors in the order given: to PATH.tmp, synced, then renamed. Values are rounded to
/// the nearest of the type, halves to even. OutputError where it cannot, or if the type has no
/// finite value near one of them; a previous file of that name is untouched then.
void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       FloatType type = FloatType::float32);

}  // namespace espalier
