#pragma once
// Weights for and from other programs, in the safetensors format: 8 bytes with the header's length,
// a JSON header (name, element type, shape, place of each tensor), then the values, little-endian
// and row-major. Files are read through a memory map, so a tensor costs no memory until it is asked
// for. Format: github.com/huggingface/safetensors, README.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace espalier {

/// A tensor of a weights file, read when it is needed.
struct NamedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  /// Writes all values, row-major, as floats. DataError where they cannot be had.
  std::function<void(float* values)> read;
  std::int64_t count() const;
};

/// The tensors of the file in the order of their values; they keep it open. F32, F16, BF16 and F64
/// can be read, other element types are only listed. DataError naming file and tensor for anything
/// that the format does not allow: sizes that do not add up, ranges that overlap or leave gaps,
/// names given twice, unknown element types, a header past 100 MB, a file cut short.
std::vector<NamedTensor> read_safetensors(const std::filesystem::path& path);

/// Writes the tensors as F32 in the order given: to PATH.tmp, synced, then renamed. OutputError
/// where it cannot; a previous file of that name is untouched then.
void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors);

}  // namespace espalier
