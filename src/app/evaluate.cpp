// `espalier evaluate`: a checkpoint's model on the test samples of its run, or of other data. Its
// sums are those of a run's evaluations, so the results are too.

#include "espalier/train/evaluate.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <cstdio>
#include <filesystem>

#include "espalier/app/commands.h"
#include "espalier/app/isa.h"
#include "espalier/record/checkpoint.h"
#include "espalier/train/weights.h"

namespace espalier {
namespace {

struct EvaluateRequest {
  std::filesystem::path checkpoint;
  std::vector<std::pair<std::string, std::string>> settings;
};

EvaluateRequest parse(const std::vector<std::string>& arguments) {
  EvaluateRequest request;
  for (const std::string& word : arguments) {
    const std::size_t sign = word.find('=');
    if (word.starts_with("--data.") || word.starts_with("--record.evaluate_batch")) {
      if (sign == std::string::npos) {
        throw InputError(formatted("'{}' needs a value: {}=VALUE", word, word));
      }
      request.settings.emplace_back(word.substr(2, sign - 2), word.substr(sign + 1));
    } else if (word.starts_with("-")) {
      throw InputError(formatted(
          "evaluate takes options of the data and --record.evaluate_batch, not '{}'", word));
    } else if (!request.checkpoint.empty()) {
      throw InputError(formatted("evaluate takes one checkpoint; '{}' or '{}'?",
                                 request.checkpoint.string(), word));
    } else {
      request.checkpoint = word;
    }
  }
  if (request.checkpoint.empty()) {
    throw InputError(
        "evaluate needs a checkpoint: espalier evaluate CKPT.h5 [--data.dir=FOLDER ...]");
  }
  return request;
}

/// The options of the checkpoint's run, with those of the request.
Config config_of(const EvaluateRequest& request, const OptionTable& options) {
  Config config(options);
  config.read_text(CheckpointReader(request.checkpoint).config_text(),
                   "the configuration in " + request.checkpoint.string());
  for (const auto& [key, value] : request.settings) config.set(key, value, "the command line");
  return config;
}

void refuse_unlike(const Dataset& data, const StoredModel& stored) {
  const DataShape &here = data.shape, &there = stored.data.shape;
  const auto refuse = [&](const std::string& what) {
    throw InputError(formatted("the model cannot be evaluated on {}: {}", data.name, what));
  };
  if (here.sample != there.sample) refuse("its samples have another shape than those of the run");
  if (here.predicts_tokens() != there.predicts_tokens() || here.vocabulary != there.vocabulary ||
      data.words != stored.data.words) {
    refuse("it has other tokens than the data of the run");
  }
  if (here.classes > there.classes) {
    refuse(formatted("it has {} classes, the data of the run {}", here.classes, there.classes));
  }
  if (data.normalisation.mean != stored.data.normalisation.mean ||
      data.normalisation.deviation != stored.data.normalisation.deviation) {
    refuse(
        "it is normalised in another way than the data of the run; set data.normalise = given, and "
        "data.mean and data.deviation to the run's");
  }
  if (!data.test || data.test->size() == 0) refuse("it has no test samples");
}

void print(const std::string& set, const EvaluationSums& sums, bool is_language) {
  const auto labels = static_cast<double>(sums.samples);
  const double loss = sums.loss / labels;
  const std::string quality =
      is_language ? formatted("perplexity={:.4f}", std::exp(loss))
                  : formatted("top1={:.4f} top5={:.4f}", static_cast<double>(sums.top1) / labels,
                              static_cast<double>(sums.top5) / labels);
  const std::string line =
      formatted("{}: {}={} loss={:.4f} {}", set, is_language ? "tokens" : "samples", sums.samples,
                loss, quality);
  std::printf("%s\n", line.c_str());
}

}  // namespace

int evaluate_command(const Protocols& protocols, const std::vector<std::string>& arguments) {
  const EvaluateRequest request = parse(arguments);
  const OptionTable options = all_options(protocols);
  const Config config = config_of(request, options);
  apply_isa(config.text("run.isa"));
  at::set_num_threads(static_cast<int>(config.integer("run.threads")));
  StoredModel stored = read_stored_model(request.checkpoint, options);
  refuse_without_statistics(stored, request.checkpoint, "evaluate");
  Experiment experiment;
  experiment.data = load_dataset(config);
  refuse_unlike(experiment.data, stored);
  experiment.model = std::move(stored.model);
  const EvaluationPlan plan = evaluation_plan(config, experiment);
  const std::vector<std::string> sets = evaluated_sets(experiment.model);
  std::vector<EvaluationSums> total(sets.size());
  for (std::int64_t batch = 0; batch < plan.test_batches(); ++batch) {
    const auto sums = evaluate_batch(experiment, plan, stored.values, batch);
    for (std::size_t i = 0; i < sums.size(); ++i) total[i] += sums[i];
  }
  for (std::size_t i = 0; i < sets.size(); ++i) {
    print(sets[i], total[i], experiment.data.shape.predicts_tokens());
  }
  return 0;
}

}  // namespace espalier
