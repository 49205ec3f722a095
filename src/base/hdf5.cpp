#include "espalier/base/hdf5.h"

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/error.h"

namespace espalier {

namespace {

// Walking downward visits the public function first and the cause, e.g. "No space left on device",
// last.
herr_t take_reason(unsigned depth, const H5E_error2_t* entry, void* reason) {
  auto& text = *static_cast<std::string*>(reason);
  if (entry->desc != nullptr && *entry->desc != '\0') {
    if (!text.empty()) text += ": ";
    text += entry->desc;
  }
  return 0;
}

/// The bytes of an array with these extents; empty if the number does not fit into 63 bits.
std::optional<std::int64_t> product(std::size_t element, std::span<const hsize_t> extents) {
  auto bytes = static_cast<std::int64_t>(element);
  for (const hsize_t extent : extents) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  }
  return bytes;
}

/// The bytes that the written chunks hold when they are unpacked.
std::optional<std::int64_t> chunk_bytes(hid_t dataset, hid_t space, hid_t created,
                                        std::size_t element) {
  const auto axes = h5_check(H5Pget_chunk(created, 0, nullptr), "read the shape of chunks");
  std::vector<hsize_t> extents(static_cast<std::size_t>(axes));
  h5_check(H5Pget_chunk(created, static_cast<int>(axes), extents.data()),
           "read the shape of chunks");
  hsize_t chunks = 0;
  h5_check(H5Dget_num_chunks(dataset, space, &chunks), "count the chunks");
  extents.push_back(chunks);
  return product(element, extents);
}

/// The bytes that the sources of a virtual dataset give it; nothing if one has no fixed number.
std::optional<std::int64_t> source_bytes(hid_t created, std::size_t element) {
  std::size_t sources = 0;
  h5_check(H5Pget_virtual_count(created, &sources), "count the sources");
  hsize_t numbers = 0;
  for (std::size_t i = 0; i < sources; ++i) {
    const H5Handle part(H5Pget_virtual_vspace(created, i), H5Sclose);
    const hssize_t own = H5Sget_select_npoints(part);
    if (own < 0) return std::nullopt;  // it grows with its source
    if (__builtin_add_overflow(numbers, static_cast<hsize_t>(own), &numbers)) return std::nullopt;
  }
  return product(element, {&numbers, 1});
}

}  // namespace

bool extents_fit(hid_t dataset) {
  const H5Handle type(H5Dget_type(dataset), H5Tclose);
  const H5Handle space(H5Dget_space(dataset), H5Sclose);
  const H5Handle created(H5Dget_create_plist(dataset), H5Pclose);
  const std::size_t element = H5Tget_size(type);
  // HDF5's own count of the elements overflows.
  const auto axes = h5_check(H5Sget_simple_extent_ndims(space), "read the extents");
  std::vector<hsize_t> extents(static_cast<std::size_t>(axes));
  h5_check(H5Sget_simple_extent_dims(space, extents.data(), nullptr), "read the extents");
  const auto bytes = product(element, extents);
  if (!bytes) return false;
  const std::int64_t needed = *bytes - kUnwrittenBytes;
  if (needed <= 0 || H5Pget_external_count(created) > 0) return true;
  const H5D_layout_t layout = H5Pget_layout(created);
  if (layout == H5D_VIRTUAL) {
    const auto given = source_bytes(created, element);
    return !given || *given >= needed;
  }
  const H5Handle file(H5Iget_file_id(dataset), H5Fclose);
  hsize_t file_bytes = 0;
  h5_check(H5Fget_filesize(file, &file_bytes), "read the size of the file");
  const hsize_t stored = H5Dget_storage_size(dataset);
  if (stored > file_bytes) return false;
  if (layout != H5D_CHUNKED) return stored >= static_cast<hsize_t>(needed);
  const bool packed = H5Pget_nfilters(created) > 0;
  const auto unpacked = chunk_bytes(dataset, space, created, element);
  return unpacked && *unpacked >= needed && (packed || stored >= static_cast<hsize_t>(needed));
}

void h5_quiet() {
  // HDF5's own clean-up at exit crashes if a full disk left a file unclosed. H5Handle has closed
  // all files by then.
  H5dont_atexit();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

hid_t h5_check(hid_t result, std::string_view what) {
  if (result >= 0) return result;
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, take_reason, &reason);
  std::erase(reason, '\n');  // of the times in it
  H5Eclear2(H5E_DEFAULT);
  throw Hdf5Error(
      formatted("cannot {}: {}", what, reason.empty() ? "HDF5 gives no reason" : reason));
}

void H5Handle::close() {
  if (id_ < 0) return;
  h5_check(close_(std::exchange(id_, H5I_INVALID_HID)), "close an HDF5 object");
}

}  // namespace espalier
