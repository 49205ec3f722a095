#pragma once
// The fixed part of a message between ranks, as it is sent: kind, sender, receiver, number of bytes
// that follow, and checksums, so that a stray, stale or damaged message is an error and not a wrong
// model.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace espalier {

inline constexpr std::size_t kMessageNumbers = 6;

/// All fields in the machine's own byte order; a peer of the other order fails on `magic`.
struct WireHeader {
  std::uint64_t magic = 0;
  std::uint32_t version = 0;
  std::int32_t type = 0;
  std::int32_t subtype = 0;
  std::uint32_t reserved = 0;
  std::int64_t from = 0;
  std::int64_t to = 0;
  std::int64_t id = 0;
  std::array<std::int64_t, kMessageNumbers> numbers{};
  std::int64_t head_bytes = 0;
  std::int64_t payload_bytes = 0;
  std::int64_t chunk_bytes = 0;  ///< the sender's, which the receiver uses too
  std::int64_t sequence = 0;     ///< messages sent before this one from the same to the same rank
  std::uint64_t head_hash = 0;
  std::uint64_t header_hash = 0;  ///< of all fields above
};
static_assert(sizeof(WireHeader) == 144, "the header has no padding");

/// Fills magic, version, head_hash (of `head`) and header_hash; head_bytes becomes the size of
/// `head`.
void seal_header(WireHeader& header, std::span<const std::byte> head);
/// The header at the start of `bytes`; an internal Error if it is too short, lacks the mark, has
/// another version or impossible sizes, or is damaged.
WireHeader open_header(std::span<const std::byte> bytes);
/// An internal Error unless `head` is the one that seal_header() had.
void check_head(const WireHeader& header, std::span<const std::byte> head);

}  // namespace espalier
