#include "espalier/comm/wire_header.h"

#include <cstring>

#include "espalier/base/error.h"
#include "espalier/base/hash.h"

namespace espalier {
namespace {

constexpr std::uint64_t kMagic = 0x45'53'50'41'4c'49'45'52;  // "ESPALIER"
constexpr std::uint32_t kVersion = 2;

std::uint64_t hash_fields(const WireHeader& header) {
  return hash_bytes(&header, offsetof(WireHeader, header_hash));
}

}  // namespace

void seal_header(WireHeader& header, std::span<const std::byte> head) {
  header.magic = kMagic;
  header.version = kVersion;
  header.head_bytes = static_cast<std::int64_t>(head.size());
  header.head_hash = hash_bytes(head.data(), head.size());
  header.header_hash = hash_fields(header);
}

WireHeader open_header(std::span<const std::byte> bytes) {
  WireHeader header;
  ESPALIER_CHECK(bytes.size() >= sizeof(header), "a message of {} bytes has no header",
                 bytes.size());
  std::memcpy(&header, bytes.data(), sizeof(header));
  ESPALIER_CHECK(header.magic == kMagic, "a message does not start with the mark of Espalier");
  ESPALIER_CHECK(header.version == kVersion,
                 "a message has version {}; every rank must run the same program", header.version);
  ESPALIER_CHECK(header.header_hash == hash_fields(header), "a message header is damaged");
  ESPALIER_CHECK(header.head_bytes >= 0 && header.payload_bytes >= 0 && header.chunk_bytes > 0,
                 "a message header has sizes {}, {}, {}", header.head_bytes, header.payload_bytes,
                 header.chunk_bytes);
  return header;
}

void check_head(const WireHeader& header, std::span<const std::byte> head) {
  ESPALIER_CHECK(static_cast<std::int64_t>(head.size()) == header.head_bytes,
                 "a message head has {} bytes, not {}", head.size(), header.head_bytes);
  ESPALIER_CHECK(header.head_hash == hash_bytes(head.data(), head.size()),
                 "a message head is damaged");
}

}  // namespace espalier
