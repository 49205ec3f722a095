#pragma once
// Models of which the tests train a part.

#include <functional>
#include <memory>

#include "espalier/model/model.h"

namespace espalier {

using Predicate = std::function<bool(const Entry&)>;

/// The model with all entries frozen for which the predicate is false.
inline Model freeze_all_but(Model model, const Predicate& is_trained) {
  auto layout = std::make_shared<Layout>(*model.layout);
  for (Entry& entry : layout->entries) {
    if (entry.kind == Kind::trainable && !is_trained(entry)) entry.kind = Kind::frozen;
  }
  model.layout = layout;
  return model;
}

}  // namespace espalier
