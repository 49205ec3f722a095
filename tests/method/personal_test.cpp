// Personal parameters: which entries they are, messages without them, and the client's own values.

#include "espalier/protocol/rounds/personal.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "espalier/model/unit_window.h"
#include "espalier/protocol/rounds/task_costs.h"
#include "fixture.h"

namespace espalier::rounds {
namespace {

const char* const kModel =
    "[data]\nsynthetic_samples = 60\n[model]\nname = cnn\nchannels = 10, 20\nfeatures = 40\n"
    "[train]\nbatch = 20\nlr = 0.1\n";

std::unique_ptr<Setting> with_personal(const std::string& more) {
  auto s = make_setting(kModel, more);
  mark_personal(s->config, s->experiment);
  return s;
}

std::set<std::string> personal_names(const Setting& s) {
  std::set<std::string> names;
  for (const Entry& entry : s.experiment.model.layout->entries) {
    if (entry.personal) names.insert(entry.name);
  }
  return names;
}

TEST(Personal, NamesBlocksAndParameters) {
  using Names = std::set<std::string>;
  EXPECT_EQ(personal_names(*with_personal("")), Names());
  EXPECT_EQ(personal_names(*with_personal("[method]\nname = fedper\n")),
            (Names{"fc2.weight", "fc2.bias"}));
  EXPECT_EQ(personal_names(*with_personal("[method]\npersonal = conv?.bias, head\n")),
            (Names{"conv1.bias", "conv2.bias", "fc2.weight", "fc2.bias"}));
  EXPECT_EQ(personal_names(*with_personal("[method]\nname = fedbn\n[model]\nnorm = batch\n")),
            (Names{"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "norm3.weight",
                   "norm3.bias"}));
}

TEST(Personal, NormsAreThoseOfEveryFamily) {
  const std::string images = "[data]\nsynthetic_shape = 3, 32, 32\n[method]\nname = fedbn\n";
  const std::string tokens =
      "[data]\nsynthetic_vocabulary = 12\nlength = 6\nsynthetic_labels = next_token\n"
      "[method]\nname = fedbn\n";
  const auto count = [](const std::string& text) {
    auto s = make_setting(text, "");
    mark_personal(s->config, s->experiment);
    return personal_names(*s).size();
  };
  // A weight and a bias for each norm.
  EXPECT_EQ(count(images + "[model]\nname = resnet\nwidth = 4\nnorm = batch\n"), 2 * 20);
  EXPECT_EQ(count(images + "[model]\nname = vgg\nwidth = 4\nnorm = group\ngroups = 2\n"), 2 * 8);
  EXPECT_EQ(count(images + "[model]\nname = vit\npatch = 4\nembed = 8\nheads = 2\ndepth = 3\n"),
            2 * 7);
  EXPECT_EQ(count(tokens + "[model]\nname = gpt\nembed = 8\nheads = 2\ndepth = 2\n"), 2 * 5);
}

TEST(Personal, RefusesPatternsOfNothingAndOfEverything) {
  EXPECT_THROW(with_personal("[method]\npersonal = head, haed\n"), InputError);
  EXPECT_THROW(with_personal("[method]\npersonal = *\n"), InputError);
  EXPECT_THROW(with_personal("[method]\nname = fedbn\n"), InputError);  // the model has none
}

/// One task, from the payload of first values.
std::pair<ClientResult, std::vector<float>> train_task(const Setting& s, const Submodel& submodel,
                                                       const Parameters& model, Bytes state) {
  const Experiment& e = s.experiment;
  TrainedTask task =
      train_from(s, submodel,
                 pack_payload(*e.plans, model, *e.plans->buffer_layout(submodel, Packing::shared)),
                 std::move(state));
  return {std::move(task.result), std::move(task.values)};
}

TEST(Personal, ValuesAreTrainedButNotSent) {
  for (const double width : {1.0, 0.5}) {
    const auto plain = make_setting(kModel, "");
    const auto s = with_personal("[method]\npersonal = head, conv1.*\n");
    const Experiment& e = s->experiment;
    const Submodel full = Submodel::full(*e.model.layout);
    const Submodel submodel = window_submodel(*e.model.layout, width, 0);
    Parameters model(e.plans->buffer_layout(full, Packing::aligned));
    initialise(model, e.seed);
    const TrainedTask reference = train(*plain, submodel);
    const auto [result, values] = train_task(*s, submodel, model, first_personal_state(e, model));
    // The first task is that of FedAvg. Its message and the client's state together have every
    // value.
    const auto dense = e.plans->buffer_layout(submodel, Packing::dense);
    const auto shared = e.plans->buffer_layout(submodel, Packing::shared);
    EXPECT_EQ(std::ssize(values), shared->count(Kind::trainable));
    EXPECT_LT(std::ssize(values), std::ssize(reference.values));
    std::vector<float> all(reference.values.size());
    Plan(*shared, *dense).copy(values.data(), all.data());
    Parameters own(e.plans->buffer_layout(submodel, Packing::aligned));
    PersonalValues personal(e);
    ByteArchive archive(result.state);
    personal.archive(archive);
    EXPECT_TRUE(archive.at_end());
    personal.place(own);
    const auto kept = e.plans->buffer_layout(submodel, Packing::personal);
    std::vector<float> mine(static_cast<std::size_t>(kept->count(Kind::trainable)));
    Plan(own.buffer_layout(), *kept, nullptr, kTrained).copy(own.data(), mine.data());
    Plan(*kept, *dense).copy(mine.data(), all.data());
    EXPECT_EQ(all, reference.values) << width;
    // The second task begins with them: its training loss is lower than from first values.
    const auto again = train_task(*s, submodel, model, result.state);
    EXPECT_NE(again.second, values);
  }
}

TEST(Personal, UnitsThatTheSubmodelLacksKeepTheirValues) {
  const auto s = with_personal("[method]\npersonal = head\n");
  const Experiment& e = s->experiment;
  const Submodel full = Submodel::full(*e.model.layout);
  const Submodel small = window_submodel(*e.model.layout, 0.5, 0);
  Parameters model(e.plans->buffer_layout(full, Packing::aligned));
  initialise(model, e.seed);
  const auto [result, values] = train_task(*s, small, model, first_personal_state(e, model));
  PersonalValues personal(e);
  ByteArchive archive(result.state);
  personal.archive(archive);
  Parameters after(e.plans->buffer_layout(full, Packing::aligned));
  personal.place(after);
  const int weight = 6;  // fc2.weight [10, 40], of whose columns the submodel has the first 20
  ASSERT_EQ(e.model.layout->entries[weight].name, "fc2.weight");
  const auto left = after[weight].slice(1, 20), left_before = model[weight].slice(1, 20);
  EXPECT_TRUE(left.equal(left_before));
  EXPECT_FALSE(after[weight].slice(1, 0, 20).equal(model[weight].slice(1, 0, 20)));
}

TEST(Personal, BoundOfMemoryCountsTheSmallerMessage) {
  const auto s = with_personal("[method]\nname = fedper\n");
  const Experiment& e = s->experiment;
  const Submodel full = Submodel::full(*e.model.layout);
  Parameters model(e.plans->buffer_layout(full, Packing::aligned));
  initialise(model, e.seed);
  ServerRules rules =
      build_rules(rounds_catalogue(), rule_names(rounds_catalogue(), s->config), s->config, e);
  const auto peaks = assignment_peaks(e, rules.tasks, {full}, 0);
  EXPECT_EQ(peaks.training.message_bytes,
            4 * e.plans->buffer_layout(full, Packing::shared)->count(Kind::trainable));
  const auto peak = train_task(*s, full, model, first_personal_state(e, model)).first.peak_bytes;
  EXPECT_LE(peak, peaks.largest());
  EXPECT_LE(static_cast<double>(peaks.largest()), 1.25 * static_cast<double>(peak));
}

}  // namespace
}  // namespace espalier::rounds
