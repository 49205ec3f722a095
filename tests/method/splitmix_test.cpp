// The members that SplitMix's clients train.

#include <algorithm>
#include <map>

#include "fixture.h"

namespace espalier::rounds {
namespace {

std::vector<std::int64_t> kept(const Model& model, const Submodel& submodel) {
  std::vector<std::int64_t> members;
  for (std::size_t k = 0; k < model.exits.size(); ++k) {
    if (submodel.has_block(model.exits[k].block)) members.push_back(static_cast<std::int64_t>(k));
  }
  return members;
}

TEST(BaseNetworks, FollowTheBudgetAndOneCycleForAllClients) {
  const auto s = make_setting(
      "[data]\nsynthetic_samples = 80\n[model]\nname = mlp\nhidden = 16\n[method]\nname = "
      "splitmix\n[clients]\nper_round = 3\n",
      "[clients]\ncount = 8\n");
  const Model& model = s->experiment.model;
  ASSERT_EQ(model.exits.size(), 8u);
  const PeakBytes free = [](const Assignment&, std::int64_t) { return std::int64_t{0}; };
  const auto rule =
      rounds_catalogue().submodels.get("members").value.make({s->config, s->experiment, free});
  // Clients 6 and 7 have the width 1/8, so all of their members come from the cycle: in eight tasks
  // each member once, over the borders of versions of three tasks.
  std::map<std::int64_t, std::int64_t> of_cycle;
  for (std::int64_t task = 0; task < 240; ++task) {
    const SendMoment moment{6 + task % 2, task, task / 3, task % 3};
    const auto members = kept(model, rule->choose(s->experiment, moment).submodel);
    ASSERT_EQ(members.size(), 1u);
    ++of_cycle[members[0]];
    if (task % 8 != 7) continue;
    EXPECT_EQ(of_cycle.size(), 8u);
    for (const auto& [member, count] : of_cycle) EXPECT_EQ(count, task / 8 + 1) << member;
  }
  // Budgets 1, 1/2, 1/4 and 1/8, two clients each. The member of the cycle is the same for all.
  std::map<std::int64_t, double> drawn;
  for (std::int64_t task = 0; task < 2000; ++task) {
    const std::int64_t first =
        kept(model, rule->choose(s->experiment, {7, task, task, 1}).submodel).at(0);
    for (std::int64_t client = 0; client < 8; ++client) {
      const Assignment assigned = rule->choose(s->experiment, {client, task, task, 1});
      const auto members = kept(model, assigned.submodel);
      const std::int64_t count = std::int64_t{8} >> (client / 2);
      ASSERT_EQ(std::ssize(members), count);
      EXPECT_EQ(assigned.width, static_cast<double>(count) / 8);
      EXPECT_TRUE(std::ranges::find(members, first) != members.end());
      if (client != 2) continue;
      for (const std::int64_t member : members) ++drawn[(member - first + 8) % 8];
    }
  }
  // The three others are equally likely to be any of seven: five standard deviations.
  for (std::int64_t other = 1; other < 8; ++other) {
    EXPECT_NEAR(drawn[other], 2000 * 3.0 / 7, 5 * std::sqrt(2000 * 3.0 / 7 * 4.0 / 7)) << other;
  }
}

}  // namespace
}  // namespace espalier::rounds
