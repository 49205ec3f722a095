#include "espalier/method/peer_exchange.h"

#include <map>
#include <utility>

namespace espalier::rounds {
namespace {

constexpr std::int64_t kValueBytes = sizeof(float);

/// A set of participants.
using Set = std::vector<bool>;

Set both(const Set& a, const Set& b) {
  Set result(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) result[i] = a[i] && b[i];
  return result;
}

bool is_empty(const Set& set) {
  for (const bool one : set) {
    if (one) return false;
  }
  return true;
}

/// The participants that have a position now, and next.
struct Holders {
  Set now, next;
  friend auto operator<=>(const Holders&, const Holders&) = default;
};

Holders both(const Holders& a, const Holders& b) {
  return {both(a.now, b.now), both(a.next, b.next)};
}

class Exchange {
 public:
  Exchange(const Layout& layout, std::span<const Submodel> now, std::span<const Submodel> next)
      : layout_(layout),
        participants_(next.size()),
        from_outside_(now.empty()),
        bytes_(participants_, std::vector<std::int64_t>(participants_, 0)),
        outside_(participants_, 0) {
    for (std::size_t axis = 0; axis < layout.axes.size(); ++axis) {
      std::vector<Holders> units(static_cast<std::size_t>(layout.axes[axis].size), none());
      for (std::size_t p = 0; p < participants_; ++p) {
        if (!from_outside_) mark(now[p], axis, units, &Holders::now, p);
        mark(next[p], axis, units, &Holders::next, p);
      }
      units_.push_back(std::move(units));
    }
    for (const Entry& entry : layout.entries) {
      if (entry.kind == Kind::trainable && !entry.personal) add(entry);
    }
  }

  std::vector<Traffic> traffic() const {
    std::vector<Traffic> result(participants_);
    for (std::size_t from = 0; from < participants_; ++from) {
      result[from].received += outside_[from];
      for (std::size_t to = 0; to < participants_; ++to) {
        if (bytes_[from][to] == 0) continue;
        result[from].sent += bytes_[from][to] + kWeightBytes;
        result[to].received += bytes_[from][to] + kWeightBytes;
      }
    }
    return result;
  }

 private:
  Holders none() const { return {Set(participants_, false), Set(participants_, false)}; }
  Holders all() const { return {Set(participants_, !from_outside_), Set(participants_, true)}; }

  static void mark(const Submodel& submodel, std::size_t axis, std::vector<Holders>& units,
                   Set Holders::*set, std::size_t participant) {
    if (submodel.is_full(static_cast<int>(axis))) {
      for (Holders& unit : units) (unit.*set)[participant] = true;
      return;
    }
    for (const std::int64_t unit : submodel.units(static_cast<int>(axis))) {
      (units[static_cast<std::size_t>(unit)].*set)[participant] = true;
    }
  }

  /// The holders of each position of a dimension.
  std::vector<Holders> positions(const Dimension& dimension) const {
    std::vector<Holders> result{all()};
    for (const Factor& factor : dimension) {
      std::vector<Holders> longer;
      const std::int64_t size =
          factor.axis < 0 ? factor.size : layout_.axes[static_cast<std::size_t>(factor.axis)].size;
      for (const Holders& outer : result) {
        for (std::int64_t i = 0; i < size; ++i) {
          longer.push_back(factor.axis < 0
                               ? outer
                               : both(outer, units_[static_cast<std::size_t>(factor.axis)]
                                                   [static_cast<std::size_t>(i)]));
        }
      }
      result = std::move(longer);
    }
    return result;
  }

  /// Counts the entry's values by holders: few different sets, because submodels are windows.
  void add(const Entry& entry) {
    std::map<Holders, std::int64_t> columns{{all(), 1}};
    for (std::size_t d = 1; d < entry.dimensions.size(); ++d) {
      std::map<Holders, std::int64_t> along, joined;
      for (const Holders& holders : positions(entry.dimensions[d])) ++along[holders];
      for (const auto& [a, count_a] : columns) {
        for (const auto& [b, count_b] : along) joined[both(a, b)] += count_a * count_b;
      }
      columns = std::move(joined);
    }
    std::map<std::pair<std::size_t, Holders>, std::int64_t> rows;
    const std::vector<Holders> first = positions(entry.dimensions[0]);
    for (std::size_t row = 0; row < first.size(); ++row) ++rows[{row % participants_, first[row]}];
    for (const auto& [row, count] : rows) {
      for (const auto& [column, times] : columns) {
        send(row.first, both(row.second, column), kValueBytes * count * times);
      }
    }
  }

  void send(std::size_t owner, const Holders& holders, std::int64_t bytes) {
    Set to = holders.next;
    if (is_empty(to)) {
      if (is_empty(holders.now) && !from_outside_) return;  // the owner has it already
      to[owner] = true;
    }
    Set from = holders.now;
    if (!from_outside_ && is_empty(from)) from[owner] = true;
    for (std::size_t receiver = 0; receiver < participants_; ++receiver) {
      if (!to[receiver]) continue;
      if (from_outside_) outside_[receiver] += bytes;
      for (std::size_t sender = 0; sender < participants_; ++sender) {
        if (from[sender] && sender != receiver) bytes_[sender][receiver] += bytes;
      }
    }
  }

  const Layout& layout_;
  std::size_t participants_;
  bool from_outside_;
  std::vector<std::vector<Holders>> units_;       // by axis and unit
  std::vector<std::vector<std::int64_t>> bytes_;  // from, to
  std::vector<std::int64_t> outside_;             // the first values
};

}  // namespace

std::vector<Traffic> peer_traffic(const Layout& layout, std::span<const Submodel> now,
                                  std::span<const Submodel> next) {
  return Exchange(layout, now, next).traffic();
}

}  // namespace espalier::rounds
