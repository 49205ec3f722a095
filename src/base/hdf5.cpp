#include "espalier/base/hdf5.h"

#include <string>

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

}  // namespace

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
  throw OutputError(
      formatted("cannot {}: {}", what, reason.empty() ? "HDF5 gives no reason" : reason));
}

void H5Handle::close() {
  if (id_ < 0) return;
  h5_check(close_(std::exchange(id_, H5I_INVALID_HID)), "close an HDF5 object");
}

}  // namespace espalier
