#include "seal.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "espalier/base/bytes.h"
#include "espalier/base/error.h"
#include "espalier/base/hash.h"
#include "h5_io.h"

namespace espalier {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
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

}  // namespace

Seal seal_of(std::uint64_t bytes, std::uint64_t checksum) {
  Seal seal;
  std::memcpy(seal.magic, kMagic, sizeof(kMagic));
  seal.bytes = bytes;
  seal.checksum = checksum;
  return seal;
}

namespace {

/// Whether the file has a seal, which is right then. Read piece by piece, since a checkpoint may be
/// as large as the memory.
bool is_sealed(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) throw OutputError(formatted("cannot read {}: {}", path.string(), std::strerror(errno)));
  const auto size = static_cast<std::size_t>(std::max<std::streamoff>(0, in.tellg()));
  if (!has_seal(in, size)) return false;
  Seal stored;
  in.seekg(static_cast<std::streamoff>(size - sizeof(Seal)));
  in.read(reinterpret_cast<char*>(&stored), sizeof(Seal));
  in.seekg(0);
  Hasher hasher;
  Bytes piece(kPieceBytes);
  for (std::size_t left = size - sizeof(Seal); left > 0 && in;) {
    const std::size_t count = std::min(left, piece.size());
    in.read(reinterpret_cast<char*>(piece.data()), static_cast<std::streamsize>(count));
    hasher.add(piece.data(), count);
    left -= count;
  }
  if (!in) throw OutputError(formatted("{} cannot be read to its end", path.string()));
  const Seal expected = seal_of(size - sizeof(Seal), hasher.value());
  if (std::memcmp(&stored, &expected, sizeof(Seal)) != 0) refuse_damaged(path);
  return true;
}

}  // namespace

Record open_record(const std::filesystem::path& path) {
  h5::require_file(path);
  const bool sealed = is_sealed(path);
  H5Handle file = h5::open_file(path);  // notices by itself where a checkpoint was cut off
  std::string kind = h5::check_identity(file, path);
  if (!sealed && kind == h5::kCheckpointType) refuse_damaged(path);
  return {std::move(file), std::move(kind)};
}

}  // namespace espalier
