#include "espalier/method/msfusion.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <string>

#include "espalier/base/error.h"
#include "espalier/config/choice.h"
#include "espalier/method/double_shift.h"
#include "espalier/method/peer_exchange.h"
#include "espalier/method/widths.h"
#include "espalier/model/unit_window.h"
#include "espalier/protocol/rounds/window.h"

namespace espalier::rounds {
namespace {

const Purpose kOffset = register_purpose("method.layer_shift");

// Both: docs/methods/msfusion.md, plateau.
constexpr std::int64_t kPatience = 5;
constexpr double kFall = 0.1;
// The largest overlap that is chosen without the user.
constexpr double kMostOverlap = 0.75;
// The server names a window to a client by its place among the participants and the overlap; the
// client computes the units.
constexpr std::int64_t kWindowNameBytes = 16;

constexpr const char* kSchedules[] = {"constant", "down", "up", "plateau"};
constexpr const char* kLayerShifts[] = {"equal", "staggered", "random"};

/// The fall of the overlap when the mean training loss of the merged tasks of a version has not
/// become smaller for some versions.
class Plateau {
 public:
  void hear(double loss, double weight) {
    sum_ += loss * weight;
    weight_ += weight;
  }
  void close_version() {
    if (weight_ == 0) return;
    const double loss = sum_ / weight_;
    sum_ = weight_ = 0;
    if (loss < best_) {
      best_ = loss;
      since_ = 0;
    } else if (++since_ == kPatience) {
      fallen_ += kFall;
      since_ = 0;
    }
  }
  double fallen() const { return fallen_; }
  void archive(Archive& archive) {
    archive.value("loss_sum", sum_);
    archive.value("loss_weight", weight_);
    archive.value("best_loss", best_);
    archive.value("versions_since", since_);
    archive.value("overlap_fallen", fallen_);
  }

 private:
  double sum_ = 0, weight_ = 0;  // of the present version
  double best_ = std::numeric_limits<double>::max();
  std::int64_t since_ = 0;
  double fallen_ = 0;
};

class DoubleShift : public SubmodelRule {
 public:
  explicit DoubleShift(const RuleContext& context)
      : layout_(*context.experiment.model.layout),
        seed_(context.experiment.seed),
        participants_(clients_at_once(context.config)),
        rates_(context.config.reals("method.split_rate")),
        layer_shift_(choice<LayerShift>(context.config, "method.layer_shift", kLayerShifts)),
        round_shift_(context.config.integer("method.round_shift")),
        lie_apart_(context.config.boolean("method.participant_shift")),
        schedule_(choice<OverlapSchedule>(context.config, "method.overlap_schedule", kSchedules)),
        start_(context.config.real("method.overlap_start")),
        end_(context.config.real("method.overlap_end")),
        last_version_(context.config.real("method.overlap_until") *
                      static_cast<double>(context.experiment.train.horizon)),
        sides_(layer_sides(layout_)),
        among_peers_(context.config.text("method.exchange") == "peers") {
    refuse_fitted_widths(context.config);
    check_rates(context.config);
    if (start_ < 0 && start_ != -1) {
      throw InputError(
          formatted("method.overlap_start = {}: an overlap is at least 0, and -1 chooses the "
                    "largest that covers each layer",
                    start_));
    }
    if (among_peers_) check_peers(context);
  }

  Assignment choose(const Experiment&, const SendMoment& moment) override {
    // A participant is a place in the round, unless each client has a rate of its own.
    const std::int64_t place =
        (has_own_rates() || among_peers_ ? moment.client : moment.slot) % participants_;
    Assignment assignment{window(place, moment.version), rate(place)};
    assignment.name_bytes = kWindowNameBytes;
    if (among_peers_) {
      const auto p = static_cast<std::size_t>(place);
      assignment.traffic = Traffic{exchange_before(moment.version)[p].received,
                                   exchange_before(moment.version + 1)[p].sent};
    }
    return assignment;
  }

  void observe(const Experiment& experiment, const TaskReport& task) override {
    if (schedule_ != OverlapSchedule::plateau || task.outcome != Outcome::merged) return;
    plateau_.hear(task.train_loss, static_cast<double>(experiment.samples_of(task.client)));
  }
  void merged(const Experiment&, const NewVersion&) override { plateau_.close_version(); }
  void archive(Archive& archive) override { plateau_.archive(archive); }

 private:
  bool has_own_rates() const { return rates_.size() > 1; }
  double rate(std::int64_t place) const {
    return rates_[has_own_rates() ? static_cast<std::size_t>(place) : 0];
  }

  void check_rates(const Config& config) const {
    for (const double rate : rates_) {
      if (!(rate > 0 && rate <= 1)) {
        throw InputError(
            formatted("method.split_rate has {}; rates are above 0 and at most 1", rate));
      }
    }
    if (rates_.size() == 1) return;
    if (std::ssize(rates_) != config.integer("clients.count")) {
      throw InputError(
          formatted("method.split_rate has {} rates for clients.count = {}; give one for all, or "
                    "one for each client",
                    rates_.size(), config.integer("clients.count")));
    }
    if (config.integer("clients.per_round") > 0) {
      throw InputError(
          "method.split_rate has a rate for each client, and then all must work in each round; set "
          "clients.per_round = 0, or give one rate");
    }
  }

  /// Which bytes travel among peers is known only if every participant works in every round.
  void check_peers(const RuleContext& context) const {
    const Config& config = context.config;
    const auto refuse = [](const std::string& found, const std::string& change) {
      throw InputError(formatted(
          "method.exchange = peers is for synchronous rounds of all clients without a server, and "
          "{}; {}, or set method.exchange = served",
          found, change));
    };
    if (schedule_ == OverlapSchedule::plateau) {
      refuse("method.overlap_schedule = plateau is decided by a server",
             "set method.overlap_schedule to constant, down or up");
    }
    const std::string window = config.text("method.window");
    if (!window.empty() && window != "synchronous") {
      refuse(formatted("method.window = {} contradicts it", window),
             "set method.window = synchronous");
    }
    for (const char* key : {"clients.per_round", "window.min_updates", "window.deadline_s",
                            "faults.crash", "faults.vanish", "faults.not_finite", "server.gflops",
                            "server.down_mbps", "server.up_mbps"}) {
      if (std::stod(config.text(key)) != 0) {
        refuse(formatted("{} = {} contradicts it", key, config.text(key)),
               formatted("set {} = 0", key));
      }
    }
    const std::string merge = config.text("method.merge");
    if (!merge.empty() && merge != "average" && merge != "masked_average") {
      refuse(formatted("method.merge = {} may keep values on a server", merge),
             "set method.merge = average");
    }
    if (config.text("method.server_optimizer") != "none") {
      refuse("method.server_optimizer is a step of a server", "set method.server_optimizer = none");
    }
    const Fleet& fleet = *context.experiment.fleet;
    if (!config.text("clients.availability_trace").empty() ||
        std::ranges::any_of(fleet.classes(),
                            [](const DeviceClass& d) { return d.availability < 1; })) {
      refuse("some clients are away at times", "make all of them available");
    }
  }

  std::vector<std::int64_t> widths(std::int64_t size) const {
    std::vector<std::int64_t> widths;
    for (std::int64_t place = 0; place < participants_; ++place) {
      widths.push_back(kept_units(rate(place), size));
    }
    return widths;
  }

  double overlap(std::int64_t size, const std::vector<std::int64_t>& widths,
                 std::int64_t version) const {
    std::int64_t sum = 0;
    for (const std::int64_t w : widths) sum += w;
    if (sum < size) return 0;  // there is nothing to share
    const double start =
        start_ >= 0 ? start_ : std::min(kMostOverlap, largest_overlap(size, widths));
    return overlap_at(schedule_, start, end_, static_cast<double>(version), last_version_,
                      plateau_.fallen());
  }

  Submodel window(std::int64_t place, std::int64_t version) const {
    Submodel submodel = Submodel::full(layout_);
    for (std::size_t axis = 0; axis < layout_.axes.size(); ++axis) {
      const Axis& a = layout_.axes[axis];
      if (!a.cuttable) continue;
      const std::vector<std::int64_t> all = widths(a.size);
      const std::int64_t moved = round_shift_ * version;
      std::int64_t offset =
          layer_shift_ == LayerShift::random
              ? Stream(seed_, kOffset, moved, static_cast<std::int64_t>(axis)).below(a.size)
              : round_offset(layer_shift_, sides_[axis], a.size, all[0], moved);
      if (lie_apart_) {
        const double c = overlap(a.size, all, version);
        for (std::int64_t p = 0; p < place; ++p) {
          offset += participant_shift(all[static_cast<std::size_t>(p)], c);
        }
      }
      submodel.keep(static_cast<int>(axis), window_units(rate(place), a.size, offset));
    }
    return submodel;
  }

  std::vector<Submodel> windows(std::int64_t version) const {
    std::vector<Submodel> all;
    for (std::int64_t place = 0; place < participants_; ++place) {
      all.push_back(window(place, version));
    }
    return all;
  }

  /// The exchange after version - 1 and before `version`; before version 0, the first values.
  const std::vector<Traffic>& exchange_before(std::int64_t version) {
    const auto [found, added] = exchanges_.try_emplace(version);
    if (added) {
      exchanges_.erase(exchanges_.begin(), exchanges_.lower_bound(version - 2));
      found->second = peer_traffic(
          layout_, version == 0 ? std::vector<Submodel>{} : windows(version - 1), windows(version));
    }
    return found->second;
  }

  const Layout& layout_;
  std::int64_t seed_;
  std::int64_t participants_;
  std::vector<double> rates_;  // one for all, or one for each client
  LayerShift layer_shift_;
  std::int64_t round_shift_;
  bool lie_apart_;
  OverlapSchedule schedule_;
  double start_, end_, last_version_;
  std::vector<int> sides_;
  bool among_peers_;
  Plateau plateau_;
  std::map<std::int64_t, std::vector<Traffic>> exchanges_;  // by version
};

}  // namespace

void register_msfusion(Catalogue& c) {
  c.options.add({"method.split_rate", OptionType::real_list, "0.5",
                 "submodel double_shift: fraction of each layer's units that a participant has; a "
                 "list: one for each client"});
  c.options.add_choice(
      "method.layer_shift", "staggered",
      "submodel double_shift: movement of the windows between rounds: equal in all layers; "
      "different in layers that share weights; or drawn for each layer and round",
      {std::begin(kLayerShifts), std::end(kLayerShifts)});
  c.options.add({"method.round_shift", OptionType::integer, "1",
                 "submodel double_shift: units by which windows move between rounds; 0 = none",
                 "units", 0, 1e6});
  c.options.add({"method.participant_shift", OptionType::boolean, "true",
                 "submodel double_shift: shift the windows of a round's participants against each "
                 "other; else all have the same window"});
  c.options.add_choice(
      "method.overlap_schedule", "down",
      "submodel double_shift: overlap of neighbouring windows during the run: constant; down from "
      "start to end; up from end to start; plateau: less whenever the training loss stays",
      {std::begin(kSchedules), std::end(kSchedules)});
  c.options.add({"method.overlap_start", OptionType::real, "-1",
                 "submodel double_shift: overlap at the start, as a fraction of a window; -1 = the "
                 "largest that covers each layer, at most 0.75",
                 "", -1, 1});
  c.options.add({"method.overlap_end", OptionType::real, "0",
                 "submodel double_shift: overlap at the end", "", 0, 1});
  c.options.add({"method.overlap_until", OptionType::real, "0.8",
                 "submodel double_shift: fraction of run.horizon after which the overlap stays", "",
                 0, 1});
  c.options.add_choice(
      "method.exchange", "served",
      "submodel double_shift: way of the values: through the server, or directly among the "
      "participants; the values are the same, bytes and times are not",
      {"served", "peers"});
  c.submodels.add("double_shift",
                  "window of units that moves between rounds and lies apart from the others'",
                  {make_rule<DoubleShift>});
  Method method;
  method.submodel = "double_shift";
  method.objective = "contrastive";
  c.methods.add("msfusion",
                "shifted windows of many weak participants, contrast of models (Xie and Li 2024)",
                method);
}

}  // namespace espalier::rounds
