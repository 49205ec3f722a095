#include "espalier/config/option_text.h"

#include "espalier/base/error.h"

namespace espalier {

std::string option_text(const Config& config, const std::string& key) {
  const Option* option = config.table().find(key);
  ESPALIER_CHECK(option != nullptr, "option {} is not declared", key);
  switch (option->type) {
    case OptionType::integer:
      return formatted("{}", config.integer(key));
    case OptionType::real:
      return formatted("{}", config.real(key));
    case OptionType::boolean:
      return config.boolean(key) ? "true" : "false";
    default:
      return config.text(key);
  }
}

}  // namespace espalier
