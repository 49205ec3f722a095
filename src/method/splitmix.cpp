#include "espalier/method/splitmix.h"

#include <algorithm>
#include <numeric>

#include "espalier/base/random.h"
#include "espalier/method/widths.h"

namespace espalier::rounds {
namespace {

const Purpose kCycle = register_purpose("method.member_cycle");
const Purpose kFurther = register_purpose("method.members");

/// The members of the model; 1: it is no ensemble.
std::int64_t members_of(const Model& model) {
  return model.is_ensemble ? std::ssize(model.exits) : 1;
}

/// floor(budget x members), at least 1: a client never trains more than its budget.
std::int64_t trained_members(double budget, std::int64_t members) {
  // 0.3 of 10 must not become 2 because the product is a little below 3.
  const double exact = budget * static_cast<double>(members);
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(exact + 1e-9), 1, members);
}

/// `kept`: places in Model::exits.
Assignment keep_members(const Model& model, const std::vector<std::int64_t>& kept) {
  Submodel submodel = Submodel::full(*model.layout);
  const std::int64_t members = members_of(model);
  for (std::int64_t k = 0; members > 1 && k < members; ++k) {
    submodel.keep_block(model.exits[static_cast<std::size_t>(k)].block,
                        std::ranges::find(kept, k) != kept.end());
  }
  return {std::move(submodel), static_cast<double>(kept.size()) / static_cast<double>(members)};
}

class BaseNetworks : public SubmodelRule {
 public:
  explicit BaseNetworks(const RuleContext& context)
      : per_version_(tasks_of_a_version(context)), levels_(context, [&](double width) {
          const Model& model = context.experiment.model;
          std::vector<std::int64_t> first(
              static_cast<std::size_t>(trained_members(width, members_of(model))));
          std::iota(first.begin(), first.end(), 0);
          return keep_members(model, first);
        }) {}

  Assignment choose(const Experiment& e, const SendMoment& moment) override {
    const std::int64_t members = members_of(e.model);
    const std::int64_t count = trained_members(levels_.width(moment), members);
    // The cycle over all members goes on from version to version, in a new order each time.
    const std::int64_t place = moment.version * per_version_ + moment.slot;
    std::vector<std::int64_t> order(static_cast<std::size_t>(members));
    std::iota(order.begin(), order.end(), 0);
    Stream(e.seed, kCycle, place / members).shuffle(order);
    const std::int64_t first = order[static_cast<std::size_t>(place % members)];
    std::vector<std::int64_t> kept{first};
    Stream further(e.seed, kFurther, moment.client, moment.nth_task);
    for (const std::int64_t other : further.choose(count - 1, members - 1)) {
      kept.push_back(other < first ? other : other + 1);
    }
    return keep_members(e.model, kept);
  }

 private:
  /// Tasks that a synchronous server sends for each version.
  static std::int64_t tasks_of_a_version(const RuleContext& context) {
    const std::int64_t chosen = context.config.integer("clients.per_round");
    return chosen > 0 ? chosen : context.experiment.fleet->size();
  }

  std::int64_t per_version_;
  WidthLevels levels_;
};

}  // namespace

void register_splitmix(Catalogue& c) {
  declare_width_options(c.options);
  c.submodels.add("members", "as many members of an ensemble as the client's width allows",
                  {make_rule<BaseNetworks>});
  Method method;
  method.submodel = "members";
  method.defaults = {{"method.widths", "1, 0.5, 0.25, 0.125"}, {"model.members", "8"}};
  c.methods.add("splitmix",
                "an ensemble of narrow networks, some for each client (Hong et al. 2022)", method);
}

}  // namespace espalier::rounds
