#include "espalier/base/format.h"

namespace espalier {

std::string formatted_from(fmt::string_view format, fmt::format_args args) {
  return fmt::vformat(format, args);
}

}  // namespace espalier
