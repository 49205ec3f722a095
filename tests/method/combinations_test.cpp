// Any registered rule may replace another in an input file. So every combination of rules either
// runs, or is refused with a sentence that says what to set instead. None may crash, and none may
// fail in any other way.

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "../record/folder.h"
#include "espalier/device/memory.h"
#include "espalier/method/register.h"
#include "espalier/protocol/rounds/task_costs.h"
#include "small_run.h"

namespace espalier::rounds {
namespace {

/// Four clients with a few samples each, two rounds.
constexpr const char* kTiny = R"(
[run]
rounds = 2
[clients]
count = 4
[data]
name = synthetic
synthetic_samples = 24
[train]
batch = 4
lr = 0.01
[method]
widths = 1, 0.5
mask_epochs = 1
)";

/// A model that every rule can work with.
constexpr const char* kCnn = R"(
[data]
synthetic_shape = 1, 4, 4
synthetic_classes = 3
[model]
name = cnn
channels = 4
kernel = 3
features = 4
)";

/// Further models and settings, by name.
std::map<std::string, std::string> others() {
  const std::string images = "[data]\nsynthetic_shape = 1, 8, 8\nsynthetic_classes = 3\n";
  const std::string tokens = "[data]\nsynthetic_vocabulary = 12\nlength = 6\n";
  const std::string transformer = "[model]\nembed = 8\nheads = 2\ndepth = 2\n";
  const std::string small =
      "[clients]\nmemory_fit = width\nfleet = 2*small, 2*large\n"
      "[device.small]\nmemory_mb = 0.05\n[device.large]\nmemory_mb = 100\n";
  return {{"mlp", images + "[model]\nname = mlp\nhidden = 6\n"},
          {"mlp, two members", images + "[model]\nname = mlp\nhidden = 6\nmembers = 2\n"},
          {"mlp, adapters beside frozen weights",
           images + "[model]\nname = mlp\nhidden = 6, 5\nadapter_rank = 3\n[train]\n"
                    "freeze = fc1.weight, fc2.bias\n"},
          {"lenet", "[data]\nsynthetic_shape = 1, 12, 12\n[model]\nname = lenet\n"},
          {"resnet, batch norm", images + "[model]\nname = resnet\nwidth = 4\n"},
          {"vgg, group norm",
           "[data]\nsynthetic_shape = 1, 32, 32\n[model]\nname = vgg\nwidth = 4\nnorm = "
           "group\ngroups = 2\n"},
          {"vit, two classifiers", images + transformer + "name = vit\npatch = 4\nexits = 2\n"},
          {"cnn, two classifiers",
           images + "[model]\nname = cnn\nchannels = 4, 4\nkernel = 3\nfeatures = 4\nexits = 2\n"},
          {"cnn, nobody at full depth",
           images + "[model]\nname = cnn\nchannels = 4, 4\nkernel = 3\nfeatures = 4\nexits = 2\n"
                    "[method]\nwidths = 0.5, 0.25\n"},
          {"vit, nobody at full depth", images + transformer +
                                            "name = vit\npatch = 4\nexits = 2\n"
                                            "[method]\nwidths = 0.5, 0.25\n"},
          {"cnn1d, two classifiers",
           "[data]\nsynthetic_shape = 2, 40\nsynthetic_classes = 3\n[model]\nname = cnn1d\n"
           "channels = 4, 4, 4\nkernel = 3\nfirst_kernel = 5\nfirst_stride = 1\npool = 2\n"
           "exits = 2\n"},
          {"gpt", tokens + "synthetic_labels = next_token\n" + transformer + "name = gpt\n"},
          {"lstm, two classifiers", tokens + "synthetic_labels = next_token\n"
                                             "[model]\nname = lstm\nembed = 4\nhidden = 5\n"
                                             "exits = 2\n"},
          {"lstm", tokens + "[model]\nname = lstm\nembed = 4\nhidden = 6, 5\n"},
          {"encoder", tokens + transformer + "name = encoder\n"},
          {"encoder, hidden tokens", tokens + "synthetic_labels = next_token\nmask_rate = 0.3\n" +
                                         transformer + "name = encoder\n"},
          {"cnn, levels drawn", std::string(kCnn) + "[method]\nlevels = dynamic\n"},
          {"cnn, widths fitted", std::string(kCnn) + small},
          {"cnn, masks drawn", std::string(kCnn) + "[method]\nmask_choice = sampled\n"},
          {"cnn, masks by magnitude", std::string(kCnn) + "[method]\nmasks = magnitude\n"},
          {"cnn, local tests",
           std::string(kCnn) +
               "[data]\nlocal_test = 0.3\n[train]\noptimizer = adan\noptimizer_state = keep\n"}};
}

struct Combination {
  std::string submodel, search, merge, objective, window;
  std::string text() const {
    return "[method]\nsubmodel = " + submodel + "\nsearch = " + search + "\nmerge = " + merge +
           "\nobjective = " + objective + "\nwindow = " + window + "\n";
  }
};

template <class Value>
std::vector<std::string> names_of(const Registry<Value>& registry) {
  std::vector<std::string> names;
  for (const auto& item : registry.items()) names.push_back(item.name);
  return names;
}

/// One model and data set, on which combinations of rules are tried.
class Ground {
 public:
  Ground(const std::filesystem::path& folder, const std::string& text)
      : text_(text),
        experiment_(build_experiment(config())),
        records_(folder / "run.h5", "", all_tables()) {}

  /// Runs it. Returns the message of a refusal, if any.
  std::optional<std::string> refusal(const Combination& rules) {
    try {
      run(rules);
      return std::nullopt;
    } catch (const InputError& error) {
      return error.what();
    }
  }

 private:
  Config config() const {
    Config config(method_options());
    config.read_text(kTiny, "the test");
    config.read_text(text_, "the ground");
    return config;
  }

  void run(const Combination& rules) {
    Config own = config();
    own.read_text(rules.text(), "the combination");
    set_defaults(rounds_catalogue(), own);
    const RuleNames names = rule_names(rounds_catalogue(), own);
    ServerRules built = build_rules(rounds_catalogue(), names, own, experiment_);
    for (std::int64_t client = 0; client < experiment_.fleet->size(); ++client) {
      const Assignment assigned = built.submodel->choose(experiment_, {client, 0, 0});
      EXPECT_GT(assignment_peaks(experiment_, built.tasks, assigned, client).largest(), 0);
    }
    run_all_rounds(own, experiment_, std::move(built), records_);
  }

  std::string text_;
  Experiment experiment_;
  RunFile records_;
};

/// Whether a refusal names a setting and what to write instead.
bool says_what_to_set(const std::string& refusal) {
  const auto has = [&](const char* word) { return refusal.find(word) != std::string::npos; };
  return has(" = ") && (has("set method.") || has("; take ") || has("; use "));
}

/// Tries combinations, and counts their results.
class Trial {
 public:
  void operator()(const std::string& name, Ground& ground, const Combination& rules) {
    SCOPED_TRACE(name + "\n" + rules.text());
    try {
      const auto refusal = ground.refusal(rules);
      ++(refusal ? refused_ : ran_);
      if (refusal) {
        EXPECT_TRUE(says_what_to_set(*refusal)) << *refusal;
      }
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
  }
  std::int64_t ran() const { return ran_; }
  std::int64_t refused() const { return refused_; }

 private:
  std::int64_t ran_ = 0;
  std::int64_t refused_ = 0;
};

class Combinations : public testing::Test {
 protected:
  Combinations() {
    install_counting_allocator();
    at::set_num_threads(1);
  }

  const std::vector<std::string> submodels_ = names_of(rounds_catalogue().submodels);
  const std::vector<std::string> merges_ = names_of(rounds_catalogue().merges);
  const std::vector<std::string> objectives_ = names_of(rounds_catalogue().objectives);
  const std::vector<std::string> windows_ = names_of(rounds_catalogue().windows);
  const std::vector<std::string> searches_ = names_of(rounds_catalogue().searches);
  const Folder folder_;
};

TEST_F(Combinations, RunOrAreRefusedWithWhatToSet) {
  Trial trial;
  // Objectives without the merge rule that sends what they read, and rules of adapters, which this
  // model has not.
  std::int64_t lone = 0;
  {
    Ground ground(folder_.path(), kCnn);
    for (const auto& submodel : submodels_) {
      const bool can_search = !rounds_catalogue().submodels.get(submodel).value.search.empty();
      for (const auto& search : can_search ? searches_ : std::vector<std::string>{""}) {
        for (const auto& merge : merges_) {
          for (const auto& objective : objectives_) {
            for (const auto& window : windows_) {
              trial("cnn", ground, {submodel, search, merge, objective, window});
              const bool is_lone = (objective == "control_variates" && merge != objective) ||
                                   submodel == "ranks" || merge == "adapter_norms";
              lone += is_lone ? 1 : 0;
            }
          }
        }
      }
    }
  }
  EXPECT_GT(trial.ran(), 0);
  EXPECT_GT(lone, 0);
  EXPECT_EQ(trial.refused(), lone);
  // Other models and settings: every pair of submodel rule and objective, with merges and windows
  // in turn.
  for (const auto& [name, text] : others()) {
    Ground ground(folder_.path(), text);
    for (std::size_t i = 0; i < submodels_.size(); ++i) {
      for (std::size_t j = 0; j < objectives_.size(); ++j) {
        trial(name, ground,
              {submodels_[i], "", merges_[(i + j) % merges_.size()], objectives_[j],
               windows_[(i + 2 * j) % windows_.size()]});
      }
    }
  }
  EXPECT_GT(trial.refused(), lone);
}

TEST_F(Combinations, OfASearchAndARuleThatNeverSearchesAreRefused) {
  for (const auto& submodel : submodels_) {
    if (!rounds_catalogue().submodels.get(submodel).value.search.empty()) continue;
    Config config(method_options());
    config.read_text(
        Combination{submodel, searches_.front(), "average", "proximal", "buffered"}.text(), "it");
    try {
      set_defaults(rounds_catalogue(), config);
      ADD_FAILURE() << submodel;
    } catch (const InputError& error) {
      EXPECT_TRUE(says_what_to_set(error.what())) << error.what();
    }
  }
}

}  // namespace
}  // namespace espalier::rounds
