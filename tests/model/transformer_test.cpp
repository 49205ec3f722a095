// vit, gpt and encoder against an independent implementation: explicit softmax attention head by
// head in double precision, on the same parameters.

#include "espalier/model/transformer.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "espalier/model/cost.h"
#include "espalier/model/operations.h"
#include "espalier/model/plan.h"
#include "purpose.h"
#include "same_bits.h"

namespace espalier {
namespace {

using Settings = std::map<std::string, std::string>;

const DataShape kImages{{3, 8, 8}, 7};
const DataShape kText{{10}, 13, 13, true};
const DataShape kNews{{9}, 4, 13, false};

const DataShape& shape_of(const Settings& settings) {
  const std::string& name = settings.at("name");
  return name == "vit" ? kImages : name == "gpt" ? kText : kNews;
}

Model make(const Settings& settings, const DataShape& shape) {
  OptionTable table;
  declare_model_options(table);
  Config config(std::move(table));
  for (const auto& [key, value] : settings) config.set("model." + key, value, "test");
  return build_model(config, shape);
}

Model make(const Settings& settings) { return make(settings, shape_of(settings)); }

/// Small sizes, 16 columns a head if there are two heads.
Settings small(const std::string& name, const Settings& more = {}) {
  Settings settings{{"name", name}, {"depth", "2"}, {"embed", "32"}, {"heads", "2"}, {"mlp", "48"}};
  for (const auto& [key, value] : more) settings[key] = value;
  return settings;
}

std::vector<Settings> every_option() {
  return {small("vit"),
          small("vit", {{"pooling", "mean"}, {"qkv_bias", "false"}}),
          small("vit", {{"fused_qkv", "false"}, {"patch", "2"}}),
          small("vit", {{"rms_norm", "true"}, {"activation", "swiglu"}}),
          small("vit", {{"attention_scale", "full"}}),
          small("vit", {{"attention_scale", "embed"}}),
          small("gpt"),
          small("gpt", {{"tied", "false"}}),
          small("gpt", {{"positions", "rotary"}}),
          small("gpt", {{"positions", "rotary"},
                        {"rotary_base", "100"},
                        {"heads", "4"},
                        {"kv_heads", "2"},
                        {"fused_qkv", "false"},
                        {"rms_norm", "true"},
                        {"activation", "swiglu"},
                        {"qkv_bias", "false"},
                        {"linear_bias", "false"},
                        {"norm_epsilon", "0.03"}}),
          small("gpt", {{"heads", "4"}, {"kv_heads", "1"}, {"fused_qkv", "false"}}),
          small("encoder"),
          small("encoder", {{"pooling", "mean"}, {"positions", "rotary"}})};
}

std::string show(const Settings& settings) {
  std::string text;
  for (const auto& [key, value] : settings) text += key + "=" + value + " ";
  return text;
}

Parameters values_of(const Model& model, const Submodel& submodel) {
  return Parameters(std::make_shared<const BufferLayout>(model.layout, submodel, Packing::aligned));
}

/// A full model in which every value has an effect: norms near one, biases and positions not near
/// zero.
Parameters full_values(const Model& model) {
  Parameters p = values_of(model, Submodel::full(*model.layout));
  for (std::size_t e = 0; e < model.layout->entries.size(); ++e) {
    const Entry& entry = model.layout->entries[e];
    const BufferLayout::Place& place = p.buffer_layout().place(static_cast<int>(e));
    Stream stream(5, kTest, e);
    const double scale =
        place.shape.size() == 2 && place.shape[1] > 1 ? 1 / std::sqrt(double(place.shape[1])) : 0.3;
    const double centre = entry.init.rule == Init::Rule::ones ? 1 : 0;
    for (std::int64_t i = 0; i < place.count; ++i)
      p.data()[place.offset + i] = static_cast<float>(centre + scale * stream.normal());
  }
  return p;
}

Parameters sliced(const Model& model, const Parameters& full, const Submodel& submodel) {
  Parameters part = values_of(model, submodel);
  Plan(full.buffer_layout(), part.buffer_layout()).copy(full.data(), part.data());
  return part;
}

at::Tensor samples(const Model& model, std::int64_t batch, std::uint64_t key = 0) {
  Stream stream(11, kTest, 1000 + key);
  std::vector<std::int64_t> shape = model.shape.sample;
  shape.insert(shape.begin(), batch);
  at::Tensor x = at::empty(shape);
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    x.data_ptr<float>()[i] = model.shape.vocabulary > 0
                                 ? static_cast<float>(stream.below(model.shape.vocabulary))
                                 : static_cast<float>(stream.normal());
  }
  return model.shape.vocabulary > 0 ? x.to(at::kLong) : x;
}

at::Tensor labels(const Model& model, std::int64_t batch) {
  return at::arange(batch * model.shape.targets(), at::kLong).remainder(model.shape.classes);
}

at::Tensor run(const Model& model, const Parameters& p, const at::Tensor& x) {
  c10::NoGradGuard no_grad;
  Context context;
  return forward(model, p, x, context);
}

// Against double precision. Each of the about ten layers in a row sums at most n = 48 terms (192 in
// the stem's), with an error of about sqrt(n) x 2^-24 = 5e-7 of its terms' size; norms and softmax
// pass errors on with factors of about one. Gradients are sums over batch and positions of terms of
// about a half, and are measured against the largest.
constexpr double kTolerance = 2e-5;
constexpr double kGradientTerms = 0.5;

void expect_close(const at::Tensor& a, const at::Tensor& b, const std::string& what = "",
                  double terms = 1) {
  ASSERT_EQ(a.sizes(), b.sizes()) << what;
  const double size = std::max(terms, b.abs().max().item<double>());
  EXPECT_LE((a - b).abs().max().item<double>(), kTolerance * size) << what;
  EXPECT_TRUE(a.isfinite().all().item<bool>()) << what;
}

/// The families, implemented independently from their papers.
class Reference {
 public:
  Reference(const Model& model, const Settings& settings, const Parameters& parameters,
            bool scaler = false)
      : model_(model), settings_(settings), parameters_(parameters), scaler_(scaler) {
    if (model.name == "gpt") {
      names_ = {"h.", "ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"};
      epsilon_ = std::stod(setting("norm_epsilon", "1e-5"));
    }
  }

  at::Tensor operator()(const at::Tensor& x) const {
    at::Tensor y = stem(x);
    const Submodel& submodel = parameters_.submodel();
    for (std::size_t i = 0; i < model_.transformer.size(); ++i) {
      const TransformerAxes& axes = model_.transformer[i];
      if (!submodel.has_block(axes.block)) continue;
      const std::string dot = names_[0] + std::to_string(i) + ".";
      y = add_at(y, attention(norm(y, dot + names_[1]), dot, axes), axes.attention_rows);
      y = add_at(y, mlp(norm(y, dot + names_[4]), dot), axes.mlp_rows);
    }
    if (model_.name == "gpt") {
      y = norm(y, "ln_f");
      return y.matmul(value(has("lm_head.weight") ? "lm_head.weight" : "wte.weight").t());
    }
    y = norm(y, "norm");
    y = setting("pooling", "token") == "mean" ? y.mean(1) : y.select(1, 0);
    return y.matmul(value("head.weight").t()) + value("head.bias");
  }

 private:
  std::string setting(const std::string& key, const std::string& otherwise) const {
    const auto found = settings_.find(key);
    return found == settings_.end() ? otherwise : found->second;
  }
  int entry(const std::string& name) const {
    const auto& entries = model_.layout->entries;
    for (std::size_t e = 0; e < entries.size(); ++e)
      if (entries[e].name == name) return static_cast<int>(e);
    return -1;
  }
  bool has(const std::string& name) const { return entry(name) >= 0; }
  at::Tensor value(const std::string& name) const {
    EXPECT_TRUE(has(name)) << name;
    return parameters_[entry(name)].to(at::kDouble);
  }
  /// The scaler's divisor of a layer's outputs: the kept fraction of its rows.
  double fraction(const std::string& name) const {
    if (!scaler_) return 1;
    const BufferLayout full(model_.layout, Submodel::full(*model_.layout), Packing::dense);
    return static_cast<double>(parameters_[entry(name)].size(0)) /
           static_cast<double>(full.place(entry(name)).shape[0]);
  }
  double stream_share() const {
    if (!scaler_) return 1;
    const Submodel& s = parameters_.submodel();
    const int embed = model_.layout->axes[model_.transformer[0].mlp_rows].within;
    return double(s.width(embed)) / double(s.full_width(embed));
  }
  at::Tensor linear(const at::Tensor& x, const std::string& name) const {
    at::Tensor y = x.matmul(value(name + ".weight").t());
    if (has(name + ".bias")) y = y + value(name + ".bias");
    return y / fraction(name + ".weight");
  }
  at::Tensor norm(const at::Tensor& x, const std::string& name) const {
    if (setting("rms_norm", "false") == "true")
      return x / (x.square().mean(-1, true) + epsilon_).sqrt() * value(name + ".weight");
    const at::Tensor centred = x - x.mean(-1, true);
    return centred / (centred.square().mean(-1, true) + epsilon_).sqrt() * value(name + ".weight") +
           value(name + ".bias");
  }
  at::Tensor stem(const at::Tensor& x) const {
    if (model_.name == "vit") {
      const std::int64_t patch = std::stoll(setting("patch", "4"));
      at::Tensor y = at::conv2d(x.to(at::kDouble), value("patch_embed.proj.weight"),
                                value("patch_embed.proj.bias"), at::IntArrayRef{patch, patch});
      y = y.flatten(2).transpose(1, 2);
      if (has("cls_token")) y = at::cat({value("cls_token").expand({x.size(0), 1, -1}), y}, 1);
      return (y + value("pos_embed")) / stream_share();
    }
    const bool gpt = model_.name == "gpt";
    at::Tensor y = at::one_hot(x, model_.shape.vocabulary)
                       .to(at::kDouble)
                       .matmul(value(gpt ? "wte.weight" : "tok_embed.weight"));
    const std::string positions = gpt ? "wpe.weight" : "pos_embed";
    if (has(positions)) y = y + value(positions);
    return y / stream_share();
  }
  /// x [batch, positions, columns] as complex numbers, rotated; the kept pairs keep their
  /// frequencies.
  at::Tensor turned(const at::Tensor& x, const TransformerAxes& axes) const {
    if (setting("positions", "learned") != "rotary") return x;
    const Submodel& s = parameters_.submodel();
    const double base = std::stod(setting("rotary_base", "10000"));
    const std::int64_t pairs = s.width(axes.columns);
    at::Tensor angle = at::empty({x.size(1), pairs}, at::kDouble);
    for (std::int64_t t = 0; t < x.size(1); ++t)
      for (std::int64_t i = 0; i < pairs; ++i) {
        const std::int64_t pair = s.is_full(axes.columns) ? i : s.units(axes.columns)[i];
        angle[t][i] = double(t) *
                      std::pow(base, -2.0 * double(pair) / double(2 * s.full_width(axes.columns)));
      }
    const at::Tensor z = at::complex(x.narrow(2, 0, pairs), x.narrow(2, pairs, pairs)) *
                         at::polar(at::ones_like(angle), angle);
    return at::cat({at::real(z), at::imag(z)}, 2);
  }
  at::Tensor attention(const at::Tensor& x, const std::string& dot,
                       const TransformerAxes& axes) const {
    const Submodel& s = parameters_.submodel();
    const bool rotary = setting("positions", "learned") == "rotary";
    const std::int64_t query_heads = std::stoll(setting("heads", "3"));
    const std::int64_t kv_heads = std::stoll(setting("kv_heads", setting("heads", "3")));
    const std::int64_t heads = s.width(axes.heads) * (query_heads / kv_heads);
    at::Tensor q, k, v;
    if (setting("fused_qkv", "true") == "true") {
      const auto parts = linear(x, dot + names_[2]).chunk(3, 2);
      q = parts[0];
      k = parts[1];
      v = parts[2];
    } else {
      q = linear(x, dot + "attn.q_proj");
      k = linear(x, dot + "attn.k_proj");
      v = linear(x, dot + "attn.v_proj");
    }
    const std::int64_t columns = q.size(2) / heads;
    const std::int64_t value_columns = v.size(2) / s.width(axes.heads);
    const std::string scale = setting("attention_scale", "kept");
    double by = double(columns);
    if (scale == "full") by = double(s.full_width(axes.columns) * (rotary ? 2 : 1));
    if (scale == "embed") by = std::stod(setting("embed", "0"));
    std::vector<at::Tensor> out;
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::int64_t shared = head / (query_heads / kv_heads);
      const at::Tensor own = turned(q.narrow(2, head * columns, columns), axes);
      const at::Tensor key = turned(k.narrow(2, shared * columns, columns), axes);
      at::Tensor scores = own.matmul(key.transpose(1, 2)) / std::sqrt(by);
      if (model_.name == "gpt") {
        const at::Tensor later =
            at::ones({x.size(1), x.size(1)}, at::kDouble).triu(1).to(at::kBool);
        scores = scores.masked_fill(later, -INFINITY);
      }
      out.push_back(scores.softmax(-1).matmul(v.narrow(2, shared * value_columns, value_columns)));
    }
    return linear(at::cat(out, 2), dot + names_[3]);
  }
  at::Tensor mlp(const at::Tensor& x, const std::string& dot) const {
    at::Tensor h = linear(x, dot + names_[5]);
    if (setting("activation", "gelu") == "swiglu") {
      const at::Tensor gate = linear(x, dot + "mlp.gate_proj");
      h = h * gate * gate.sigmoid();
    } else if (model_.name == "gpt") {
      h = 0.5 * h * (1 + (std::sqrt(2 / M_PI) * (h + 0.044715 * h.pow(3))).tanh());
    } else {
      h = 0.5 * h * (1 + at::erf(h / std::sqrt(2.0)));
    }
    return linear(h, dot + names_[6]);
  }
  at::Tensor add_at(const at::Tensor& x, const at::Tensor& y, int rows) const {
    const std::vector<std::int64_t> places = parameters_.submodel().positions(rows);
    if (places.empty()) return x + y;
    // A matrix of zeros and ones puts each column in its place.
    at::Tensor place = at::zeros({y.size(2), x.size(2)}, at::kDouble);
    for (std::size_t i = 0; i < places.size(); ++i)
      place[static_cast<std::int64_t>(i)][places[i]] = 1;
    return x + y.matmul(place);
  }

  const Model& model_;
  const Settings& settings_;
  const Parameters& parameters_;
  bool scaler_;
  std::vector<std::string> names_{"blocks.", "norm1",   "attn.qkv", "attn.proj",
                                  "norm2",   "mlp.fc1", "mlp.fc2"};
  double epsilon_ = 1e-6;
};

void expect_equal_to_reference(const Settings& settings, const Model& model, Parameters& p,
                               const std::string& what, bool scaler = false) {
  p.attach_gradients();
  p.zero_gradients();
  const at::Tensor x = samples(model, 3);
  const at::Tensor y = labels(model, 3);
  Context context;
  context.mode = Mode::train;
  context.scaler = scaler;
  const at::Tensor ours = forward(model, p, x, context);
  at::cross_entropy_loss(ours.flatten(0, -2), y).backward();
  const at::Tensor gradients = p.gradients().clone();
  p.zero_gradients();
  const at::Tensor theirs = Reference(model, settings, p, scaler)(x);
  at::cross_entropy_loss(theirs.flatten(0, -2), y).backward();
  expect_close(ours.detach().to(at::kDouble), theirs.detach(), what);
  expect_close(gradients, p.gradients(), what, kGradientTerms);
  EXPECT_GT(gradients.abs().max().item<double>(), 100 * kTolerance * kGradientTerms) << what;
  // Evaluation runs the same kernels.
  if (scaler) return;
  EXPECT_TRUE(same_bits(run(model, p, x), ours.detach())) << what;
}

enum class Choice { leading, rolling, random, smallest };

std::vector<std::int64_t> units(Choice choice, double fraction, std::int64_t size,
                                std::uint64_t key) {
  const std::int64_t kept =
      choice == Choice::smallest ? 1 : std::int64_t(std::ceil(fraction * double(size)));
  if (choice == Choice::random) return Stream(3, kTest, key).choose(kept, size);
  const std::int64_t start = choice == Choice::rolling ? size - (kept + 1) / 2 : 0;
  std::vector<std::int64_t> units;
  for (std::int64_t k = 0; k < kept; ++k) units.push_back((start + k) % size);
  std::sort(units.begin(), units.end());
  return units;
}

/// As rules that cut every width: subset axes follow, heads stay.
Submodel by_fraction(const Layout& layout, double fraction, Choice choice) {
  Submodel submodel = Submodel::full(layout);
  for (std::size_t axis = 0; axis < layout.axes.size(); ++axis) {
    if (!layout.axes[axis].cuttable) continue;
    submodel.keep(static_cast<int>(axis), units(choice, fraction, layout.axes[axis].size, axis));
  }
  return submodel;
}

/// As Co-S2P: heads, hidden neurons and written positions of each block, the stream whole.
Submodel by_block(const Model& model, double fraction, Choice choice) {
  Submodel submodel = Submodel::full(*model.layout);
  for (const TransformerAxes& axes : model.transformer) {
    for (const int axis : {axes.heads, axes.attention_rows, axes.hidden, axes.mlp_rows}) {
      submodel.keep(axis, units(choice, fraction, submodel.full_width(axis),
                                static_cast<std::uint64_t>(axis)));
    }
  }
  return submodel;
}

constexpr Choice kChoices[] = {Choice::leading, Choice::rolling, Choice::random, Choice::smallest};

std::int64_t trainable_count(const Model& model) {
  return BufferLayout(model.layout, Submodel::full(*model.layout), Packing::dense)
      .count(Kind::trainable);
}

TEST(Transformer, HasTheParametersOfThePapersToTheUnit) {
  const Settings vit_b{
      {"name", "vit"}, {"depth", "12"}, {"embed", "768"}, {"heads", "12"}, {"patch", "16"}};
  EXPECT_EQ(trainable_count(make(vit_b, {{3, 224, 224}, 1000})), 86567656);
  const Settings gpt2{{"name", "gpt"}, {"depth", "12"}, {"embed", "768"}, {"heads", "12"}};
  EXPECT_EQ(trainable_count(make(gpt2, {{1024}, 50257, 50257, true})), 124439808);
}

TEST(Transformer, CountsByHand) {
  // Stream 32, hidden 48, 3 x 8 x 8 images in 4 patches and a class token, 7 classes.
  const std::int64_t norms = 2 * 2 * 32;
  const std::int64_t attention = 3 * 32 * 33 + 32 * 33;
  const std::int64_t mlp = 48 * 33 + 32 * 49;
  const std::int64_t block = norms + attention + mlp;
  const std::int64_t ends = 32 * 49 + 32 + 5 * 32 + 2 * 32 + 7 * 33;
  EXPECT_EQ(trainable_count(make(small("vit"))), ends + 2 * block);
  EXPECT_EQ(trainable_count(make(small("vit", {{"fused_qkv", "false"}}))), ends + 2 * block);
  EXPECT_EQ(trainable_count(make(small("vit", {{"qkv_bias", "false"}}))), ends + 2 * (block - 96));
  EXPECT_EQ(trainable_count(make(small("vit", {{"linear_bias", "false"}}))),
            ends + 2 * (block - 32 - 48 - 32));
  // No class token and no position for it.
  EXPECT_EQ(trainable_count(make(small("vit", {{"pooling", "mean"}}))), ends - 64 + 2 * block);
  // RMS norms have no bias.
  EXPECT_EQ(trainable_count(make(small("vit", {{"rms_norm", "true"}}))),
            ends - 32 + 2 * (block - 64));
  EXPECT_EQ(trainable_count(make(small("vit", {{"activation", "swiglu"}}))),
            ends + 2 * (block + 48 * 33));
  const std::int64_t text = 13 * 32 + 10 * 32 + 64;
  EXPECT_EQ(trainable_count(make(small("gpt"))), text + 2 * block);
  EXPECT_EQ(trainable_count(make(small("gpt", {{"tied", "false"}}))), text + 13 * 32 + 2 * block);
  EXPECT_EQ(trainable_count(make(small("gpt", {{"positions", "rotary"}}))),
            text - 10 * 32 + 2 * block);
  // Two of four heads of 8 columns: keys and values have 16 rows each.
  EXPECT_EQ(trainable_count(
                make(small("gpt", {{"heads", "4"}, {"kv_heads", "2"}, {"fused_qkv", "false"}}))),
            text + 2 * (block - 2 * 16 * 33));
  EXPECT_EQ(trainable_count(make(small("encoder"))), 13 * 32 + 9 * 32 + 64 + 4 * 33 + 2 * block);
}

TEST(Transformer, EqualsTheReferenceForEveryOption) {
  for (const Settings& settings : every_option()) {
    const Model model = make(settings);
    Parameters p = full_values(model);
    expect_equal_to_reference(settings, model, p, show(settings));
  }
}

TEST(Transformer, EqualsTheReferenceAtCutWidths) {
  for (const Settings& settings : every_option()) {
    const Model model = make(settings);
    const Parameters full = full_values(model);
    for (const Choice choice : kChoices) {
      Parameters fractions = sliced(model, full, by_fraction(*model.layout, 0.4, choice));
      expect_equal_to_reference(settings, model, fractions, "fractions " + show(settings));
      Parameters blocks = sliced(model, full, by_block(model, 0.4, choice));
      expect_equal_to_reference(settings, model, blocks, "blocks " + show(settings));
    }
  }
}

TEST(Transformer, EqualsTheReferenceWithEveryAxisCutItsOwnWay) {
  for (const Settings& settings : every_option()) {
    const Model model = make(settings);
    Submodel submodel = by_fraction(*model.layout, 0.6, Choice::random);
    const Layout& layout = *model.layout;
    for (std::size_t axis = 0; axis < layout.axes.size(); ++axis) {
      if (layout.axes[axis].within < 0) continue;
      const auto around = submodel.units(layout.axes[axis].within);
      std::vector<std::int64_t> some;
      for (const std::int64_t i : units(Choice::random, 0.5, std::ssize(around), axis))
        some.push_back(around[static_cast<std::size_t>(i)]);
      submodel.keep(static_cast<int>(axis), some);
    }
    for (const TransformerAxes& axes : model.transformer) {
      submodel.keep(axes.heads, {submodel.full_width(axes.heads) - 1});
      // Fewer values than queries, then more.
      if (axes.value_columns != axes.columns) submodel.keep(axes.value_columns, {1, 2, 5});
    }
    Parameters p = sliced(model, full_values(model), submodel);
    expect_equal_to_reference(settings, model, p, show(settings));
    for (const TransformerAxes& axes : model.transformer) submodel.keep(axes.columns, {1, 3});
    Parameters narrow = sliced(model, full_values(model), submodel);
    expect_equal_to_reference(settings, model, narrow, show(settings));
  }
}

TEST(Transformer, ScalerDividesEachCutLayerByItsKeptShare) {
  for (const Settings& settings : every_option()) {
    const Model model = make(settings);
    Parameters p =
        sliced(model, full_values(model), by_fraction(*model.layout, 0.5, Choice::rolling));
    expect_equal_to_reference(settings, model, p, show(settings), /*scaler=*/true);
    // Nothing is divided at full width.
    Parameters full = full_values(model);
    const at::Tensor x = samples(model, 2);
    c10::NoGradGuard no_grad;
    Context context;
    context.mode = Mode::train;
    context.scaler = true;
    EXPECT_TRUE(same_bits(forward(model, full, x, context), run(model, full, x)));
  }
}

TEST(Transformer, HeadsNeuronsAndWrittenPositionsDropAsIfTheirWeightsWereZero) {
  for (Settings settings : every_option()) {
    // Dropped columns add nothing to a score; divided by the full width, it does not change.
    for (const bool columns : {false, true}) {
      if (columns) settings["attention_scale"] = "full";
      const Model model = make(settings);
      for (const Choice choice : kChoices) {
        Submodel submodel = by_block(model, 0.4, choice);
        for (const TransformerAxes& axes : model.transformer) {
          if (columns)
            for (const int axis : {axes.columns, axes.value_columns})
              submodel.keep(axis, units(choice, 0.4, submodel.full_width(axis), 1));
        }
        const Parameters part = sliced(model, full_values(model), submodel);
        Parameters zeroed = values_of(model, Submodel::full(*model.layout));
        Plan(part.buffer_layout(), zeroed.buffer_layout()).copy(part.data(), zeroed.data());
        const at::Tensor x = samples(model, 4);
        expect_close(run(model, part, x), run(model, zeroed, x), show(settings));
      }
    }
  }
}

TEST(Transformer, GatherThenScatterIsTheIdentityOnKeptAndTouchesNothingElse) {
  for (const Settings& settings : every_option()) {
    const Model model = make(settings);
    for (const Choice choice : kChoices) {
      for (const Submodel& submodel :
           {by_fraction(*model.layout, 0.3, choice), by_block(model, 0.3, choice)}) {
        Parameters full = values_of(model, Submodel::full(*model.layout));
        full.flat().copy_(at::arange(1, full.flat().numel() + 1, at::kFloat));
        const at::Tensor before = full.flat().clone();
        Parameters part = sliced(model, full, submodel);
        EXPECT_EQ(part.buffer_layout().count(),
                  Plan(full.buffer_layout(), part.buffer_layout()).count());
        Plan(part.buffer_layout(), full.buffer_layout()).copy(part.data(), full.data());
        EXPECT_TRUE(same_bits(full.flat(), before));
        part.flat().mul_(2);
        Plan(part.buffer_layout(), full.buffer_layout()).copy(part.data(), full.data());
        EXPECT_EQ(full.flat().ne(before).sum().item<std::int64_t>(), part.buffer_layout().count());
      }
    }
  }
}

TEST(Transformer, RulesThatCutEveryWidthLeaveTheHeads) {
  const Model model = make(small("vit"));
  const Submodel half = by_fraction(*model.layout, 0.5, Choice::leading);
  for (const TransformerAxes& axes : model.transformer) {
    EXPECT_EQ(half.width(axes.heads), 2);
    EXPECT_EQ(half.width(axes.columns), 8);
    EXPECT_EQ(half.width(axes.attention_rows), 16);
    EXPECT_EQ(half.width(axes.mlp_rows), 16);
    EXPECT_EQ(half.width(axes.hidden), 24);
  }
  // The first half of each head's rows of queries, keys and values.
  const Parameters full = full_values(model);
  const Parameters part = sliced(model, full, half);
  int qkv = 0;
  while (model.layout->entries[static_cast<std::size_t>(qkv)].name != "blocks.0.attn.qkv.weight")
    ++qkv;
  const at::Tensor expected =
      full[qkv].view({3, 2, 16, 32}).narrow(2, 0, 8).narrow(3, 0, 16).reshape({48, 16});
  EXPECT_TRUE(same_bits(part[qkv], expected));
}

TEST(Transformer, ADroppedBlockIsTheIdentity) {
  for (const std::string name : {"vit", "gpt", "encoder"}) {
    const Model deep = make(small(name, {{"depth", "3"}}));
    const Parameters full = full_values(deep);
    Submodel submodel = Submodel::full(*deep.layout);
    submodel.keep_block(deep.transformer[1].block, false);
    const Parameters part = sliced(deep, full, submodel);
    // Two blocks, the second with the values of the third.
    const Model shallow = make(small(name));
    Parameters copied = values_of(shallow, Submodel::full(*shallow.layout));
    for (std::size_t e = 0; e < shallow.layout->entries.size(); ++e) {
      std::string other = shallow.layout->entries[e].name;
      const std::size_t at = other.find(".1.");
      if (at != std::string::npos) other.replace(at, 3, ".2.");
      for (std::size_t d = 0; d < deep.layout->entries.size(); ++d)
        if (deep.layout->entries[d].name == other)
          copied[static_cast<int>(e)].copy_(full[static_cast<int>(d)]);
    }
    const at::Tensor x = samples(deep, 4);
    EXPECT_TRUE(same_bits(run(deep, part, x), run(shallow, copied, x))) << name;
  }
}

TEST(Gpt, ALaterTokenChangesNoEarlierLogit) {
  for (const Settings& settings : every_option()) {
    if (settings.at("name") != "gpt") continue;
    const Model model = make(settings);
    const Parameters p = full_values(model);
    const at::Tensor x = samples(model, 2);
    const at::Tensor before = run(model, p, x);
    for (const std::int64_t changed : {1, 5, 9}) {
      at::Tensor other = x.clone();
      other.select(1, changed).add_(1).remainder_(model.shape.vocabulary);
      const at::Tensor after = run(model, p, other);
      EXPECT_TRUE(after.narrow(1, 0, changed).equal(before.narrow(1, 0, changed)));
      EXPECT_FALSE(after.select(1, changed).equal(before.select(1, changed)));
    }
  }
}

TEST(Gpt, AShorterTextGivesTheLogitsOfItsStart) {
  for (const Settings& settings : every_option()) {
    if (settings.at("name") != "gpt") continue;
    const Model model = make(settings);
    const Parameters p = full_values(model);
    const at::Tensor x = samples(model, 2);
    expect_close(run(model, p, x.narrow(1, 0, 6).contiguous()), run(model, p, x).narrow(1, 0, 6),
                 show(settings));
  }
}

TEST(Encoder, EveryTokenSeesEveryOther) {
  const Model model = make(small("encoder"));
  const Parameters p = full_values(model);
  const at::Tensor x = samples(model, 2);
  at::Tensor other = x.clone();
  other.select(1, 8).add_(1).remainder_(model.shape.vocabulary);
  EXPECT_FALSE(run(model, p, x).equal(run(model, p, other)));
}

TEST(Encoder, PredictsHiddenTokensFromTheirPositions) {
  constexpr std::int64_t kMask = 12;
  const Model model = make(small("encoder"), {{9}, kMask, kMask + 1, false, 2});
  const Parameters p = full_values(model);
  at::Tensor x = samples(model, 3).remainder_(kMask);
  const std::vector<std::vector<std::int64_t>> hidden{{0, 8}, {3, 4}, {1, 6}};
  for (std::int64_t sample = 0; sample < 3; ++sample) {
    for (const std::int64_t place : hidden[static_cast<std::size_t>(sample)]) {
      x[sample][place].fill_(kMask);
    }
  }
  std::vector<at::Tensor> taps;
  Context context;
  context.taps = &taps;
  const at::Tensor logits = [&] {
    c10::NoGradGuard no_grad;
    return forward(model, p, x, context);
  }();
  ASSERT_EQ(logits.sizes(), (std::vector<std::int64_t>{3, 2, kMask}));
  // The head by its formula at every position, in double.
  const auto value = [&](const std::string& name) {
    const auto& entries = model.layout->entries;
    const auto entry = std::ranges::find(entries, name, &Entry::name);
    return p[static_cast<int>(entry - entries.begin())].to(at::kDouble);
  };
  const at::Tensor stream = taps[taps.size() - 2].to(at::kDouble);  // of the last block
  ASSERT_EQ(stream.sizes(), (std::vector<std::int64_t>{3, 9, 32}));
  const at::Tensor centred = stream - stream.mean(-1, true);
  const at::Tensor normed =
      centred / (centred.square().mean(-1, true) + 1e-6).sqrt() * value("norm.weight") +
      value("norm.bias");
  const at::Tensor all = normed.matmul(value("head.weight").t()) + value("head.bias");
  for (std::int64_t sample = 0; sample < 3; ++sample) {
    for (std::int64_t i = 0; i < 2; ++i) {
      const std::int64_t place =
          hidden[static_cast<std::size_t>(sample)][static_cast<std::size_t>(i)];
      // Sums of 32 products of about one: sqrt(32) x 2^-24 = 3e-7 of their size.
      EXPECT_TRUE(at::allclose(logits[sample][i].to(at::kDouble), all[sample][place], 1e-5, 1e-5))
          << sample << " " << place;
    }
  }
}

TEST(Encoder, OfHiddenTokensIsRefusedByOtherFamilies) {
  const DataShape hidden{{9}, 12, 13, false, 2};
  for (const char* name : {"gpt", "lstm"}) {
    try {
      make({{"name", name}}, hidden);
      ADD_FAILURE() << name;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find("with hidden tokens; take encoder for it"),
                std::string::npos)
          << error.what();
    }
  }
}

at::Tensor angles(std::int64_t positions, const std::vector<double>& speeds) {
  at::Tensor table = at::empty({2, positions, std::ssize(speeds)});
  for (std::int64_t t = 0; t < positions; ++t)
    for (std::size_t i = 0; i < speeds.size(); ++i) {
      table[0][t][static_cast<std::int64_t>(i)] = std::cos(double(t) * speeds[i]);
      table[1][t][static_cast<std::int64_t>(i)] = std::sin(double(t) * speeds[i]);
    }
  return table;
}

TEST(Rotary, TurnsAQuarterWhereAQuarterIsAsked) {
  // One rotated head and one that is not, two pairs: (1, 3) by 90 degrees, (2, 4) by none.
  const at::Tensor x = at::tensor({1., 2., 3., 4., 1., 2., 3., 4.}, at::kFloat).repeat({1, 2, 1});
  const at::Tensor y = rotate_(x.clone(), angles(2, {M_PI / 2, 0}), 1);
  EXPECT_TRUE(y[0][0].equal(x[0][0]));
  EXPECT_TRUE(
      at::allclose(y[0][1], at::tensor({-3., 2., 1., 4., 1., 2., 3., 4.}, at::kFloat), 0, 1e-6));
}

TEST(Rotary, ProductsDependOnTheDistanceAlone) {
  const std::int64_t positions = 12;
  Stream stream(1, kTest);
  at::Tensor q = at::empty({8});
  at::Tensor k = at::empty({8});
  for (std::int64_t i = 0; i < 8; ++i) {
    q[i] = stream.normal();
    k[i] = stream.normal();
  }
  const at::Tensor table = angles(positions, {1, 0.3, 0.1, 0.01});
  const auto turned = [&](const at::Tensor& x) {
    return rotate_(x.repeat({1, positions, 1}), table, 1)[0];
  };
  const at::Tensor scores = turned(q).matmul(turned(k).t());
  // Terms of order one, 8 a sum, rounded to 2^-24 twice.
  for (std::int64_t i = 1; i < positions; ++i)
    for (std::int64_t j = 1; j < positions; ++j)
      EXPECT_NEAR(scores[i][j].item<double>(), scores[i - 1][j - 1].item<double>(), 1e-5);
  EXPECT_GT((scores[0] - scores[0][0]).abs().max().item<double>(), 0.1);
}

TEST(Cost, FlopsOfAVitMatchTheSumByHand) {
  const Model model = make(small("vit"));
  const std::int64_t batch = 3, t = 5, e = 32, h = 48;
  const auto product = [](std::int64_t in, std::int64_t out) { return out * (2 * in + 1); };
  const std::int64_t stem = 4 * product(48, e) + t * e;
  const std::int64_t attention =
      t * e + t * product(e, 3 * e) + 2 * t * t * (4 * 16 + 1) + t * product(e, e) + t * e;
  const std::int64_t mlp = t * e + t * product(e, h) + t * h + t * product(h, e) + t * e;
  const std::int64_t head = e + product(e, 7);
  EXPECT_EQ(training_cost(model, Submodel::full(*model.layout), batch, 0).forward_flops,
            batch * (stem + 2 * (attention + mlp) + head));
}

TEST(Cost, ADroppedBlockCostsNothing) {
  for (const std::string name : {"vit", "gpt", "encoder"}) {
    const Model deep = make(small(name, {{"depth", "3"}}));
    Submodel submodel = Submodel::full(*deep.layout);
    submodel.keep_block(deep.transformer[2].block, false);
    const Model shallow = make(small(name));
    const TrainingCost a = training_cost(deep, submodel, 4, 1);
    const TrainingCost b = training_cost(shallow, Submodel::full(*shallow.layout), 4, 1);
    EXPECT_EQ(a.forward_flops, b.forward_flops);
    EXPECT_EQ(a.parameters, b.parameters);
    EXPECT_EQ(a.peak_bytes, b.peak_bytes);
  }
}

TEST(Transformer, RefusesSizesThatDoNotFit) {
  EXPECT_THROW(make(small("vit", {{"patch", "3"}})), InputError);
  EXPECT_THROW(make(small("vit", {{"heads", "5"}})), InputError);
  EXPECT_THROW(make(small("vit"), kText), InputError);
  EXPECT_THROW(make(small("gpt"), kImages), InputError);
  EXPECT_THROW(make(small("gpt"), kNews), InputError);
  EXPECT_THROW(make(small("encoder"), kText), InputError);
  EXPECT_THROW(make(small("gpt", {{"heads", "4"}, {"kv_heads", "3"}, {"fused_qkv", "false"}})),
               InputError);
  EXPECT_THROW(make(small("gpt", {{"heads", "4"}, {"kv_heads", "2"}})), InputError);
  EXPECT_THROW(make(small("gpt", {{"heads", "32"}, {"positions", "rotary"}})), InputError);
}

TEST(Transformer, MemberNamesAreTheCustomaryOnes) {
  const auto names = [](const Model& model) {
    std::vector<std::string> all;
    for (const Entry& entry : model.layout->entries) all.push_back(entry.name);
    return all;
  };
  const Settings one{{"depth", "1"}};
  EXPECT_EQ(names(make(small("vit", one))), (std::vector<std::string>{"cls_token",
                                                                      "pos_embed",
                                                                      "patch_embed.proj.weight",
                                                                      "patch_embed.proj.bias",
                                                                      "blocks.0.norm1.weight",
                                                                      "blocks.0.norm1.bias",
                                                                      "blocks.0.attn.qkv.weight",
                                                                      "blocks.0.attn.qkv.bias",
                                                                      "blocks.0.attn.proj.weight",
                                                                      "blocks.0.attn.proj.bias",
                                                                      "blocks.0.norm2.weight",
                                                                      "blocks.0.norm2.bias",
                                                                      "blocks.0.mlp.fc1.weight",
                                                                      "blocks.0.mlp.fc1.bias",
                                                                      "blocks.0.mlp.fc2.weight",
                                                                      "blocks.0.mlp.fc2.bias",
                                                                      "norm.weight",
                                                                      "norm.bias",
                                                                      "head.weight",
                                                                      "head.bias"}));
  EXPECT_EQ(
      names(make(small("gpt", one))),
      (std::vector<std::string>{
          "wte.weight", "wpe.weight", "h.0.ln_1.weight", "h.0.ln_1.bias", "h.0.attn.c_attn.weight",
          "h.0.attn.c_attn.bias", "h.0.attn.c_proj.weight", "h.0.attn.c_proj.bias",
          "h.0.ln_2.weight", "h.0.ln_2.bias", "h.0.mlp.c_fc.weight", "h.0.mlp.c_fc.bias",
          "h.0.mlp.c_proj.weight", "h.0.mlp.c_proj.bias", "ln_f.weight", "ln_f.bias"}));
}

}  // namespace
}  // namespace espalier
