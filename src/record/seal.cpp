#include "seal.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/hash.h"
#include "h5_io.h"

namespace espalier {
namespace {

constexpr char kMagic[8] = {'E', 'S', 'P', 'A', 'L', 'I', 'E', 'R'};

[[noreturn]] void refuse_damaged(const std::filesystem::path& path) {
  throw OutputError(formatted("{} is no complete checkpoint: its end is missing, or it was damaged",
                              path.string()));
}

bool has_seal(std::ifstream& in, std::size_t size) {
  char magic[sizeof(kMagic)];
  if (size < sizeof(Seal)) return false;
  in.seekg(static_cast<std::streamoff>(size - sizeof(Seal)));
  in.read(magic, sizeof(magic));
  return in && std::memcmp(magic, kMagic, sizeof(kMagic)) == 0;
}

/// What the seal is of, or nothing where the file has none.
std::optional<Bytes> sealed_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) throw OutputError(formatted("cannot read {}: {}", path.string(), std::strerror(errno)));
  const auto size = static_cast<std::size_t>(std::max<std::streamoff>(0, in.tellg()));
  if (!has_seal(in, size)) return std::nullopt;
  Bytes bytes(size);
  in.seekg(0);
  in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
  if (!in) throw OutputError(formatted("{} cannot be read to its end", path.string()));
  const std::size_t length = size - sizeof(Seal);
  const Seal expected = seal_of(bytes.data(), length);
  if (std::memcmp(bytes.data() + length, &expected, sizeof(Seal)) != 0) refuse_damaged(path);
  bytes.resize(length);
  return bytes;
}

}  // namespace

Seal seal_of(const std::byte* data, std::size_t bytes) {
  Seal seal;
  std::memcpy(seal.magic, kMagic, sizeof(kMagic));
  seal.bytes = bytes;
  seal.checksum = hash_bytes(data, bytes);
  return seal;
}

Record open_record(const std::filesystem::path& path) {
  h5::require_file(path);
  if (const auto bytes = sealed_bytes(path)) {
    H5Handle file = h5::open_image(*bytes);
    std::string kind = h5::check_identity(file, path);
    return {std::move(file), std::move(kind)};
  }
  H5Handle file = h5::open_file(path);  // notices by itself where a checkpoint was cut off
  std::string kind = h5::check_identity(file, path);
  if (kind == h5::kCheckpointType) refuse_damaged(path);
  return {std::move(file), std::move(kind)};
}

}  // namespace espalier
