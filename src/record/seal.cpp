#include "seal.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "espalier/base/bytes.h"
#include "espalier/base/child.h"
#include "espalier/base/error.h"
#include "espalier/base/hash.h"
#include "h5_io.h"

namespace espalier {

namespace {
constexpr char kMagic[8] = {'E', 'S', 'P', 'A', 'L', 'I', 'E', 'R'};
}

Seal seal_of(std::uint64_t bytes, std::uint64_t checksum) {
  Seal seal;
  std::memcpy(seal.magic, kMagic, sizeof(kMagic));
  seal.bytes = bytes;
  seal.checksum = checksum;
  return seal;
}

namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;

bool has_seal(std::ifstream& in, std::size_t size) {
  char magic[sizeof(kMagic)];
  if (size < sizeof(Seal)) return false;
  in.seekg(static_cast<std::streamoff>(size - sizeof(Seal)));
  in.read(magic, sizeof(magic));
  return in && std::memcmp(magic, kMagic, sizeof(kMagic)) == 0;
}

/// Of the first `bytes` bytes, read piece by piece, since a file may be as large as the memory.
Seal seal_of_file(std::ifstream& in, std::size_t bytes, const std::filesystem::path& path) {
  in.seekg(0);
  Hasher hasher;
  Bytes piece(kPieceBytes);
  for (std::size_t left = bytes; left > 0 && in;) {
    const std::size_t count = std::min(left, piece.size());
    in.read(reinterpret_cast<char*>(piece.data()), static_cast<std::streamsize>(count));
    hasher.add(piece.data(), count);
    left -= count;
  }
  if (!in) throw OutputError(formatted("{} cannot be read to its end", path.string()));
  return seal_of(bytes, hasher.value());
}

/// A file, with its size.
std::pair<std::ifstream, std::size_t> open_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) throw OutputError(formatted("cannot read {}: {}", path.string(), std::strerror(errno)));
  const auto size = static_cast<std::size_t>(std::max<std::streamoff>(0, in.tellg()));
  return {std::move(in), size};
}

}  // namespace

void add_seal(const std::filesystem::path& path) {
  auto [in, size] = open_bytes(path);
  const Seal seal = seal_of_file(in, size, path);
  std::ofstream out(path, std::ios::binary | std::ios::app);
  out.write(reinterpret_cast<const char*>(&seal), sizeof(seal));
  out.close();
  if (!out)
    throw OutputError(formatted("cannot write {}: {}", path.string(), std::strerror(errno)));
}

void drop_seal(const std::filesystem::path& path) {
  auto [in, size] = open_bytes(path);
  if (!has_seal(in, size)) return;
  std::error_code error;
  std::filesystem::resize_file(path, size - sizeof(Seal), error);
  if (error) throw OutputError(formatted("cannot write {}: {}", path.string(), error.message()));
}

bool is_sealed(const std::filesystem::path& path) {
  auto [in, size] = open_bytes(path);
  if (!has_seal(in, size)) return false;
  Seal stored;
  in.seekg(static_cast<std::streamoff>(size - sizeof(Seal)));
  in.read(reinterpret_cast<char*>(&stored), sizeof(Seal));
  const Seal expected = seal_of_file(in, size - sizeof(Seal), path);
  if (std::memcmp(&stored, &expected, sizeof(Seal)) == 0) return true;
  throw OutputError(
      formatted("{} is damaged: the checksum at its end is not that of its bytes", path.string()));
}

Record open_record(const std::filesystem::path& path, bool sealed) {
  H5Handle file = h5::open_file(path);  // notices by itself where a checkpoint was cut off
  std::string kind = h5::check_identity(file, path);
  if (!sealed && kind == h5::kCheckpointType) {
    throw OutputError(formatted(
        "{} is no complete checkpoint: its end is missing, or it was damaged", path.string()));
  }
  return {std::move(file), std::move(kind), sealed};
}

std::string read_records(const std::vector<std::filesystem::path>& files,
                         const std::function<std::string()>& work) {
  std::int64_t bytes = 0;
  std::string names;
  for (const auto& file : files) {
    h5::require_file(file);
    std::error_code ignored;
    bytes += static_cast<std::int64_t>(std::filesystem::file_size(file, ignored));
    names += (names.empty() ? "" : " or ") + file.string();
  }
  return in_child(names, Status::output, limits_for(bytes), [&] {
    try {
      return work();
    } catch (const Hdf5Error& error) {
      throw OutputError(formatted("{} is damaged: {}", names, h5::brief(error.what())));
    }
  });
}

}  // namespace espalier
