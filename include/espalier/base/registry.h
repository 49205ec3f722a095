#pragma once
// A list of named things with one line of help each. Registries are built by plain functions (see
// method/register.cpp), never by static constructors, so their order and content are visible in one
// place.

#include <algorithm>
#include <string>
#include <vector>

#include "espalier/base/error.h"

namespace espalier {

template <class Value>
class Registry {
 public:
  struct Item {
    std::string name;
    std::string help;
    Value value;
  };
  /// `what` is the word used in messages: "submodel rule", "model family".
  explicit Registry(std::string what) : what_(std::move(what)) {}

  void add(std::string name, std::string help, Value value) {
    ESPALIER_CHECK(find(name) == nullptr, "{} {} registered twice", what_, name);
    items_.push_back({std::move(name), std::move(help), std::move(value)});
  }
  const Item* find(const std::string& name) const {
    auto it = std::find_if(items_.begin(), items_.end(),
                           [&](const Item& item) { return item.name == name; });
    return it == items_.end() ? nullptr : &*it;
  }
  /// The item, or an InputError that lists the names.
  const Item& get(const std::string& name) const {
    if (const Item* item = find(name)) return *item;
    std::string known;
    for (const Item& item : items_) known += (known.empty() ? "" : ", ") + item.name;
    throw InputError(formatted("no {} is called '{}'; there are: {}", what_, name, known));
  }
  const std::vector<Item>& items() const { return items_; }

 private:
  std::string what_;
  std::vector<Item> items_;
};

}  // namespace espalier
