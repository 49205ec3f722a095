#include "espalier/method/adaptcl.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "espalier/config/choice.h"
#include "espalier/method/retention.h"
#include "espalier/method/widths.h"
#include "espalier/model/unit_order.h"
#include "espalier/protocol/rounds/merge.h"
#include "espalier/train/trainer.h"

namespace espalier::rounds {
namespace {

const Purpose kOrder = register_purpose("method.order");

/// What the server tells a client beside the values: the number of units left out, and once the
/// order, 4 bytes for each of its units.
constexpr std::int64_t kCountBytes = 8;
constexpr std::int64_t kUnitBytes = 4;

enum class Scores { scale, norm, taylor, median, index, random };
constexpr const char* kScores[] = {"scale", "norm", "taylor", "median", "index", "random"};

RetentionSettings retention_settings(const Config& config) {
  RetentionSettings s;
  s.is_anchored = config.text("method.prune_target") == "anchored";
  s.points = config.integer("method.prune_points");
  s.tolerance = config.real("method.prune_tolerance");
  s.aim = config.real("method.prune_aim");
  s.largest_rate = config.real("method.prune_largest");
  s.least_rate = config.real("method.prune_least");
  s.floor = config.real("method.prune_floor");
  s.regrows = config.boolean("method.prune_regrow");
  return s;
}

/// Orders of units: one for all clients, or one for each.
class Orders {
 public:
  explicit Orders(const RuleContext& context)
      : scores_(choice<Scores>(context.config, "method.order", kScores)),
        by_layer_(context.config.text("method.order_scope") == "layer"),
        is_shared_(context.config.boolean("method.order_shared")),
        floor_(context.config.real("method.layer_floor")),
        seed_(context.experiment.seed) {}

  bool empty() const { return orders_.empty(); }
  const UnitOrder& of(std::int64_t client) const {
    return orders_[is_shared_ ? 0 : static_cast<std::size_t>(client)];
  }

  /// Ranks the units of the new version, for the `event`-th time.
  void rank(const Experiment& e, const NewVersion& made, std::int64_t event) {
    orders_.clear();
    const UnitScores global = scores(e.model, made, event);
    if (is_shared_) {
      orders_.push_back(order(e.model, global));
      return;
    }
    for (std::int64_t client = 0; client < e.fleet->size(); ++client) {
      const auto own = std::ranges::find(made.updates, client, &Update::client);
      orders_.push_back(order(e.model, scores_ == Scores::random
                                           ? random_scores(e.model, {seed_, kOrder, event, client})
                                       : own == made.updates.end() ? global
                                                                   : scores(e.model, *own)));
    }
  }

  void archive(Archive& archive, const Model& model) {
    auto count = std::ssize(orders_);
    archive.value("orders", count);
    orders_.resize(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < orders_.size(); ++i) {
      std::vector<std::int64_t> code = orders_[i].encode();
      archive.value(("order_" + std::to_string(i)).c_str(), code);
      if (archive.loading()) orders_[i] = UnitOrder::decode(model, code);
    }
  }

 private:
  UnitOrder order(const Model& model, const UnitScores& scores) const {
    return {model, by_layer_ || scores_ == Scores::index ? ranks_by_axis(scores) : scores, floor_};
  }

  /// Of the global model. Taylor scores are summed over the updates, each with the change of its
  /// weights as gradient, because the server has no gradient of its own.
  UnitScores scores(const Model& model, const NewVersion& made, std::int64_t event) const {
    const BufferLayout& layout = made.model.buffer_layout();
    const std::span<const float> values(made.model.data(), static_cast<std::size_t>(layout.size()));
    if (scores_ == Scores::random) return random_scores(model, {seed_, kOrder, event, -1});
    if (scores_ != Scores::taylor) return unit_scores(model, layout, values, importance());
    UnitScores sum;
    for (const Update& update : made.updates) {
      const UnitScores own = scores(model, update);
      if (sum.empty()) {
        sum = own;
        continue;
      }
      for (std::size_t axis = 0; axis < sum.size(); ++axis) {
        for (std::size_t unit = 0; unit < sum[axis].size(); ++unit) {
          sum[axis][unit] = std::max(sum[axis][unit], 0.0) + std::max(own[axis][unit], 0.0);
        }
      }
    }
    return sum;
  }

  /// Of a client's own update.
  UnitScores scores(const Model& model, const Update& update) const {
    const BufferLayout& layout = *update.buffer_layout;
    const std::span<const float> trained = floats_of(*update.values);
    if (scores_ != Scores::taylor) return unit_scores(model, layout, trained, importance());
    const std::span<const float> sent = floats_of(*update.sent);
    std::vector<float> gradient(sent.size());
    for (std::size_t i = 0; i < sent.size(); ++i) gradient[i] = sent[i] - trained[i];
    return unit_scores(model, layout, sent, Importance::taylor, gradient);
  }

  Importance importance() const { return static_cast<Importance>(scores_); }

  Scores scores_;
  bool by_layer_;
  bool is_shared_;
  double floor_;
  std::int64_t seed_;
  std::vector<UnitOrder> orders_;
};

/// A prefix of an order of units is left out, whose length is learned for each client.
class LearnedRetention : public SubmodelRule {
 public:
  explicit LearnedRetention(const RuleContext& context)
      : model_(context.experiment.model),
        fleet_(*context.experiment.fleet),
        peak_(context.peak),
        update_time_(context.update_time),
        every_(context.config.integer("method.prune_every")),
        stop_(std::llround(context.config.real("method.prune_until") *
                           static_cast<double>(context.experiment.train.horizon))),
        is_ideal_(context.config.text("method.prune_learning") == "ideal"),
        is_constant_(context.config.boolean("method.order_constant")),
        orders_(context),
        floor_(context.config.real("method.prune_floor")),
        learner_(retention_settings(context.config), fleet_.size()),
        before_(model_, ranks_by_axis(first_scores(context.experiment)),
                context.config.real("method.layer_floor")),
        clients_(static_cast<std::size_t>(fleet_.size())) {
    refuse_fitted_widths(context.config);
    if (prunable_axes(model_).empty()) {
      throw InputError(
          formatted("method.submodel = learned_retention: model.name = {} has no unit that can "
                    "be left out",
                    model_.name));
    }
    for (std::int64_t client = 0; client < fleet_.size(); ++client) {
      set_removed(client, fitting(client, 0));
    }
  }

  Assignment choose(const Experiment&, const SendMoment& moment) override {
    const Client& client = clients_[static_cast<std::size_t>(moment.client)];
    const UnitOrder& order = order_of(moment.client);
    Assignment assignment{order.without(client.removed), client.retention};
    assignment.name_bytes = kCountBytes;
    if (client.removed > 0 && client.knows_order == 0) {
      assignment.name_bytes += kUnitBytes * order.size();
    }
    return assignment;
  }

  void observe(const Experiment&, const TaskReport& task) override {
    if (task.outcome != Outcome::merged && task.outcome != Outcome::dropped_stale) return;
    Client& client = clients_[static_cast<std::size_t>(task.client)];
    if (task.base_version >= ranked() && !task.submodel.is_full()) client.knows_order = 1;
    if (task.base_version < client.changed) return;  // of an earlier size
    const double time = seconds(task.download + task.compute + task.upload);
    if (task.base_version == begun_) {
      client.first_time = time;
      return;
    }
    client.time_sum += time;
    ++client.times;
  }

  void merged(const Experiment& experiment, const NewVersion& made) override {
    if (made.version % every_ != 0 || made.version >= stop_) return;
    const bool is_first = orders_.empty();
    if (is_first || !is_constant_) {
      orders_.rank(experiment, made, made.version);
      for (Client& client : clients_) client.knows_order = 0;
    }
    if (is_ideal_) {
      if (is_first || !is_constant_) set_ideal();
    } else {
      learn(made.version, is_first);
    }
    begun_ = made.version;
    for (Client& client : clients_) {
      client.first_time = -1;
      client.time_sum = 0;
      client.times = 0;
    }
  }

  void archive(Archive& archive) override {
    archive.value("begun", begun_);
    orders_.archive(archive, model_);
    learner_.archive(archive);
    archive_list(archive, "clients", clients_, [](Archive& a, Client& client) {
      a.value("removed", client.removed);
      a.value("retention", client.retention);
      a.value("wanted", client.wanted);
      a.value("changed", client.changed);
      a.value("knows_order", client.knows_order);
      a.value("first_time", client.first_time);
      a.value("time_sum", client.time_sum);
      a.value("times", client.times);
    });
  }

 private:
  struct Client {
    std::int64_t removed = 0;  // units
    double retention = 1;
    // The retention that was last asked for. A new order removes units up to it, and not up to
    // `retention`, which would lose up to one unit every time.
    double wanted = 1;
    std::int64_t knows_order = 0;  // whether it has answered a task with a prefix of the order
    std::int64_t changed = 0;      // version at which its size last changed
    // Times of the updates that ended in this interval, seconds: of the interval's first round,
    // which counts only if there is no other (negative: none), and the sum of the others.
    double first_time = -1;
    double time_sum = 0;
    std::int64_t times = 0;

    std::optional<double> mean_time() const {
      if (times > 0) return time_sum / static_cast<double>(times);
      return first_time >= 0 ? std::optional(first_time) : std::nullopt;
    }
  };

  static UnitScores first_scores(const Experiment& e) {
    const BufferLayout full(e.model.layout, Submodel::full(*e.model.layout), Packing::dense);
    return unit_scores(e.model, full, {}, Importance::index);
  }

  /// Before the first ranking only clients with too little memory leave units out: the last ones of
  /// each layer.
  const UnitOrder& order_of(std::int64_t client) const {
    return orders_.empty() ? before_ : orders_.of(client);
  }

  /// The version at which the present order was made.
  std::int64_t ranked() const { return orders_.empty() ? 0 : is_constant_ ? every_ : begun_; }

  void set_removed(std::int64_t client, std::int64_t removed) {
    Client& c = clients_[static_cast<std::size_t>(client)];
    c.removed = removed;
    c.retention = order_of(client).retention(removed);
  }

  /// Of a client that knows the order.
  Assignment assignment(std::int64_t client, std::int64_t removed) const {
    const UnitOrder& order = order_of(client);
    return {.submodel = order.without(removed),
            .width = order.retention(removed),
            .name_bytes = kCountBytes};
  }

  /// The largest number to remove such that the retention is not below the floor.
  std::int64_t most_removed(std::int64_t client) const {
    const UnitOrder& order = order_of(client);
    const std::int64_t removed = order.removed_for(floor_);
    return order.retention(removed) < floor_ && removed > 0 ? removed - 1 : removed;
  }

  /// The smallest number to remove, at least `least`, with which the client's memory suffices; the
  /// largest number if none suffices.
  std::int64_t fitting(std::int64_t client, std::int64_t least) const {
    const std::int64_t cap = memory_bytes(fleet_.device(client));
    const UnitOrder& order = order_of(client);
    if (cap == 0) return least;
    const auto fits = [&](std::int64_t removed) {
      return peak_(assignment(client, removed), client) <= cap;
    };
    std::int64_t removed = smallest(least, order.size(), fits);
    // A list of kept units may become longer when one is removed.
    while (removed < order.size() && !fits(removed)) ++removed;
    if (orders_.empty() && !fits(removed)) {
      refuse_memory(fleet_.device(client), peak_(assignment(client, removed), client));
    }
    return removed;
  }

  /// The smallest number in [least, most] for which `holds`, if it holds from there on; else most.
  template <class Holds>
  static std::int64_t smallest(std::int64_t least, std::int64_t most, const Holds& holds) {
    while (least < most) {
      const std::int64_t middle = (least + most) / 2;
      if (holds(middle)) {
        most = middle;
      } else {
        least = middle + 1;
      }
    }
    return least;
  }

  void learn(std::int64_t version, bool is_first) {
    std::vector<std::optional<double>> times;
    std::vector<double> retentions;
    for (const Client& client : clients_) {
      times.push_back(client.mean_time());
      retentions.push_back(client.retention);
    }
    const std::vector<double> wanted = learner_.learn(times, retentions);
    for (std::int64_t client = 0; client < fleet_.size(); ++client) {
      const auto i = static_cast<std::size_t>(client);
      Client& c = clients_[i];
      const bool is_asked = wanted[i] != retentions[i];
      if (is_asked) c.wanted = wanted[i];
      if (!is_asked && !is_first && is_constant_) continue;
      const std::int64_t before = c.removed;
      const std::int64_t removed =
          std::min(order_of(client).removed_for(c.wanted), most_removed(client));
      set_removed(client, fitting(client, removed));
      // With a new order alone the size stays, so times of tasks under way still count.
      if (c.removed != before && (is_asked || is_first)) c.changed = version;
    }
  }

  /// Every client at once gets the largest submodel with which it is as fast as the fastest client
  /// with the whole model.
  void set_ideal() {
    Nanoseconds fastest = std::numeric_limits<Nanoseconds>::max();
    for (std::int64_t client = 0; client < fleet_.size(); ++client) {
      fastest = std::min(fastest, update_time_(assignment(client, 0), client));
    }
    for (std::int64_t client = 0; client < fleet_.size(); ++client) {
      const std::int64_t removed = smallest(0, most_removed(client), [&](std::int64_t units) {
        return update_time_(assignment(client, units), client) <= fastest;
      });
      set_removed(client, fitting(client, removed));
    }
  }

  const Model& model_;
  const Fleet& fleet_;
  PeakBytes peak_;
  UpdateTime update_time_;
  std::int64_t every_;
  std::int64_t stop_;
  bool is_ideal_;
  bool is_constant_;
  Orders orders_;
  double floor_;
  RetentionLearner learner_;
  UnitOrder before_;
  std::vector<Client> clients_;
  std::int64_t begun_ = 0;  // version at which this interval began
};

/// theta[j] = sum_w p_w theta_w[j] with sum p_w = 1 over all updates: what a client does not have
/// counts as zero. A value that no update has stays: a unit of zeros would never train again, and
/// the values that clients keep for themselves (method.personal) are in no update.
class ByWorker : public AverageMerge {
 public:
  using AverageMerge::AverageMerge;

 protected:
  void combine(Parameters& model, std::span<const Holding> holdings) const override {
    double all = 0;
    for (const Holding& holding : holdings) all += holding.weight;
    BlockSums sums;
    float* const values = model.data();
    for_each_block(model, [&](Range range) {
      sums.sum(range, holdings);
      for (std::size_t i = 0; i < static_cast<std::size_t>(range.size()); ++i) {
        if (sums.denominator[i] > 0) {
          values[static_cast<std::size_t>(range.begin) + i] =
              static_cast<float>(sums.numerator[i] / all);
        }
      }
    });
  }
};

void add_pruning_options(OptionTable& table) {
  table.add({"method.prune_every", OptionType::integer, "10",
             "submodel learned_retention: versions between two changes of the sizes", "versions", 1,
             1e9});
  table.add({"method.prune_until", OptionType::real, "0.6",
             "submodel learned_retention: fraction of run.horizon after which sizes stay", "", 0,
             1});
  table.add_choice(
      "method.prune_learning", "newton",
      "submodel learned_retention: sizes from observed times; or ideal: at the first change "
      "each client gets the size with which it is as fast as the fastest client with the whole "
      "model (an oracle)",
      {"newton", "ideal"});
  table.add_choice("method.prune_target", "anchored",
                   "submodel learned_retention: time that updates should take: of the fastest "
                   "client that never lost a unit (with the whole model, if the memory of any "
                   "allows it), or of the fastest of all",
                   {"anchored", "fastest"});
  table.add({"method.prune_points", OptionType::integer, "2",
             "submodel learned_retention: points of the interpolation", "", 2, 100});
  table.add({"method.prune_tolerance", OptionType::real, "0.1",
             "submodel learned_retention: a client up to this fraction slower than the target "
             "stays as it is",
             "", 0, 10});
  table.add({"method.prune_aim", OptionType::real, "0.5",
             "submodel learned_retention: place in the tolerance that a new size aims at: 0 = "
             "the target, 1 = the slowest time that is tolerated",
             "", 0, 1});
  table.add({"method.prune_largest", OptionType::real, "0.5",
             "submodel learned_retention: largest fraction that one change removes", "", 0.001,
             0.999});
  table.add({"method.prune_least", OptionType::real, "0.02",
             "submodel learned_retention: smallest fraction that is worth a change", "", 0, 0.999});
  table.add(
      {"method.prune_floor", OptionType::real, "0.1",
       "submodel learned_retention: smallest fraction of the model's parameters, except where "
       "a client's memory asks for less",
       "", 0, 1});
  table.add({"method.prune_regrow", OptionType::boolean, "false",
             "submodel learned_retention: a client that is 1.5 times faster than the target for "
             "three intervals gets units back"});
}

void add_order_options(OptionTable& table) {
  table.add_choice(
      "method.order", "scale",
      "submodel learned_retention: importance of units: absolute scale of their norm (L2 norm of "
      "the incoming weights where there is none); L1 norm of the incoming weights; taylor, "
      "|gradient x weight|; median, distance to the layer's other units; index; random",
      {std::begin(kScores), std::end(kScores)});
  table.add_choice("method.order_scope", "global",
                   "submodel learned_retention: units of all layers in one ranking, or the same "
                   "fraction of every layer",
                   {"global", "layer"});
  table.add({"method.order_shared", OptionType::boolean, "true",
             "submodel learned_retention: one order for all clients; with false each client's own "
             "update ranks its units"});
  table.add({"method.order_constant", OptionType::boolean, "true",
             "submodel learned_retention: ranked once; with false again at every change"});
  table.add({"method.layer_floor", OptionType::real, "0.05",
             "submodel learned_retention: fraction of every layer's units that stays, at least one "
             "unit",
             "", 0, 1});
}

}  // namespace

void register_adaptcl(Catalogue& c) {
  add_pruning_options(c.options);
  add_order_options(c.options);
  c.submodels.add("learned_retention",
                  "a prefix of one order of units is left out, as long as observed times ask for",
                  {make_rule<LearnedRetention>});
  c.merges.add("by_worker", "weighted sum over all updates; missing values count as zero",
               make_rule<ByWorker>);
  Method method;
  method.submodel = "learned_retention";
  method.defaults = {{"train.group_lasso", "0.0001"}};
  c.methods.add("adaptcl", "submodels that shrink until all updates take equally long (Zhou 2021)",
                method);
}

}  // namespace espalier::rounds
