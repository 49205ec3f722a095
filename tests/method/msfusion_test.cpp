// MSfusion: the selection rule against explicit sets and against the coverage that it is chosen
// for, the exchange among peers against closed forms; and the contrast that it shares with MOON.

#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <numeric>
#include <set>

#include "espalier/method/contrast.h"
#include "espalier/method/double_shift.h"
#include "espalier/method/peer_exchange.h"
#include "espalier/model/unit_window.h"
#include "espalier/protocol/rounds/merge.h"
#include "espalier/protocol/rounds/task_costs.h"
#include "fixture.h"
#include "purpose.h"

namespace espalier::rounds {
namespace {

// The selection rule --------------------------------------------------------------------------

constexpr std::int64_t kUnits = 64;

/// The entries of a weight between two layers of `units` units that are trained, round after round.
class Trained {
 public:
  explicit Trained(std::int64_t units = kUnits) : units_(units) {}
  void round(LayerShift shift, std::int64_t w, std::int64_t participants, std::int64_t apart,
             std::int64_t r) {
    for (std::int64_t n = 0; n < participants; ++n) {
      const std::int64_t rows = round_offset(shift, 0, units_, w, r) + n * apart;
      const std::int64_t columns = round_offset(shift, 1, units_, w, r) + n * apart;
      for (std::int64_t i = 0; i < w; ++i) {
        for (std::int64_t j = 0; j < w; ++j) {
          entries_.insert((rows + i) % units_ * units_ + (columns + j) % units_);
        }
      }
    }
  }
  double share() const {
    return static_cast<double>(entries_.size()) / static_cast<double>(units_ * units_);
  }

 private:
  std::int64_t units_;
  std::set<std::int64_t> entries_;
};

std::int64_t rounds_to_train_all(std::int64_t w, std::int64_t participants) {
  Trained trained;
  for (std::int64_t r = 0; r < 1000; ++r) {
    trained.round(LayerShift::staggered, w, participants, kUnits / participants, r);
    if (trained.share() == 1) return r + 1;
  }
  return -1;
}

TEST(DoubleShift, CoversAWeightAsFastAsItsSpecificationSays) {
  struct Row {
    double mu, equal_share;
    std::int64_t alone, participants, together;
  };
  for (const Row& row : {Row{1.0 / 16, 0.109, 320, 16, 260}, Row{1.0 / 8, 0.234, 128, 8, 72},
                         Row{1.0 / 4, 0.484, 62, 4, 14}, Row{3.0 / 8, 0.734, 49, 3, 14},
                         Row{1.0 / 2, 0.984, 55, 2, 23}, Row{5.0 / 8, 1.000, 0, 0, 0}}) {
    const std::int64_t w = kept_units(row.mu, kUnits);
    Trained equal;
    for (std::int64_t r = 0; r < 3 * kUnits; ++r) equal.round(LayerShift::equal, w, 1, 0, r);
    EXPECT_NEAR(equal.share(), row.equal_share, 5e-4) << row.mu;
    EXPECT_EQ(equal.share(), std::min(1.0, static_cast<double>(2 * w - 1) / kUnits)) << row.mu;
    if (row.alone == 0) continue;
    EXPECT_EQ(rounds_to_train_all(w, 1), row.alone) << row.mu;
    EXPECT_EQ(rounds_to_train_all(w, row.participants), row.together) << row.mu;
    if (row.mu >= 0.25) {
      EXPECT_LE(row.alone, kUnits);  // within h rounds
    }
  }
}

TEST(DoubleShift, TrainsTheShareOfOneRoundThatTheSpecificationSays) {
  struct Row {
    std::int64_t participants;
    double mu, share;
    std::int64_t units = kUnits;
  };
  // Ten windows lie evenly over 80 units, but not over 64.
  for (const Row& row : {Row{4, 0.25, 0.25}, Row{4, 0.5, 0.75}, Row{8, 0.25, 0.375},
                         Row{10, 0.5, 0.9, 80}, Row{20, 0.1, 0.17}}) {
    Trained trained(row.units);
    trained.round(LayerShift::equal, kept_units(row.mu, row.units), row.participants,
                  row.units / row.participants, 0);
    EXPECT_NEAR(trained.share(), row.share, 0.005) << row.participants << " " << row.mu;
  }
}

TEST(DoubleShift, EvenlySpreadWindowsKeepEveryUnitIfThereIsEnoughForAll) {
  for (const std::int64_t h : {12, 60, 64}) {
    for (const std::int64_t n : {2, 3, 4, 6}) {
      if (h % n != 0) continue;
      for (const double mu : {0.1, 0.2, 0.25, 0.3, 0.5, 0.75}) {
        const std::int64_t w = kept_units(mu, h);
        // The overlap with which windows are h / n apart.
        const double c = 1 - static_cast<double>(h / n) / static_cast<double>(w);
        const std::int64_t apart = c >= 0 ? participant_shift(w, c) : h / n;
        EXPECT_EQ(apart, h / n);
        std::set<std::int64_t> kept;
        for (std::int64_t p = 0; p < n; ++p) {
          for (std::int64_t k = 0; k < w; ++k) kept.insert((p * apart + k) % h);
        }
        EXPECT_EQ(std::ssize(kept) == h, n * w >= h) << h << " " << n << " " << mu;
      }
    }
  }
}

TEST(DoubleShift, LargestOverlapIsTheLastThatKeepsEveryUnit) {
  for (const std::int64_t h : {7, 10, 64, 100}) {
    for (std::int64_t w = 1; w <= h; w += 3) {
      for (const std::int64_t n : {2, 3, 5, 10}) {
        const std::vector<std::int64_t> widths(static_cast<std::size_t>(n), w);
        const double c = largest_overlap(h, widths);
        const auto end = [&](double overlap) {
          return (n - 1) * participant_shift(w, overlap) + w;
        };
        if (n * w < h) {
          EXPECT_EQ(c, 0);
          continue;
        }
        EXPECT_GE(end(c), h) << h << " " << w << " " << n;
        if (c < 1) {
          const auto shift = static_cast<double>((h - w + n - 2) / (n - 1));
          EXPECT_NEAR(c, 1 - shift / static_cast<double>(w), 1e-8);
          EXPECT_LT(end(c + 1e-6), h) << h << " " << w << " " << n;
        }
      }
    }
  }
  // Of unequal widths 2, 3 and 5: with c = 1/2 the shifts are 1 and 1, so 7 units are kept.
  const std::vector<std::int64_t> unequal{2, 3, 5};
  EXPECT_NEAR(largest_overlap(8, unequal), 1.0 / 3, 1e-8);
  EXPECT_NEAR(largest_overlap(10, unequal), 0, 1e-8);
  EXPECT_EQ(largest_overlap(11, unequal), 0);
}

TEST(DoubleShift, OverlapFollowsItsSchedule) {
  using enum OverlapSchedule;
  EXPECT_EQ(overlap_at(constant, 0.6, 0.2, 30, 80, 0), 0.6);
  for (const double r : {0.0, 20.0, 40.0, 80.0, 99.0}) {
    const double left = std::max(0.0, 1 - r / 80);
    EXPECT_NEAR(overlap_at(down, 0.6, 0.2, r, 80, 0), 0.2 + 0.4 * left, 1e-12);
    EXPECT_NEAR(overlap_at(up, 0.6, 0.2, r, 80, 0), 0.6 - 0.4 * left, 1e-12);
  }
  EXPECT_NEAR(overlap_at(plateau, 0.6, 0.2, 30, 80, 0.1), 0.5, 1e-12);
  EXPECT_EQ(overlap_at(plateau, 0.6, 0.2, 30, 80, 0.7), 0.2);
}

TEST(DoubleShift, LayersThatShareAWeightHaveDifferentSides) {
  const auto chain = make_setting(
      "[model]\nname = cnn\nchannels = 4, 6\nkernel = 3\nfeatures = 8\nprojection = 5\n", "");
  const Layout& layout = *chain->experiment.model.layout;
  const std::vector<int> sides = layer_sides(layout);
  std::vector<int> of_layers;
  for (std::size_t axis = 0; axis < layout.axes.size(); ++axis) {
    if (layout.axes[axis].cuttable) of_layers.push_back(sides[axis]);
  }
  EXPECT_EQ(of_layers, (std::vector<int>{0, 1, 0, 1}));
  // In a residual network a stage's stream, the inner convolution and the next stage's stream form
  // a circle; the sides of the two ends of its smallest weight, the shortcut, are equal.
  const auto residual = make_setting("[model]\nname = resnet\nwidth = 4\n", "");
  const Layout& blocks = *residual->experiment.model.layout;
  const std::vector<int> own = layer_sides(blocks);
  int equal = 0;
  for (const Entry& entry : blocks.entries) {
    if (entry.dimensions.size() != 4 || !blocks.axes[entry.dimensions[1][0].axis].cuttable)
      continue;
    const bool same = own[entry.dimensions[0][0].axis] == own[entry.dimensions[1][0].axis];
    EXPECT_EQ(same, entry.name.find("downsample") != std::string::npos) << entry.name;
    equal += same;
  }
  EXPECT_EQ(equal, 3);
}

// The windows of a run ------------------------------------------------------------------------

std::unique_ptr<Setting> fusion(const std::string& more) {
  return make_setting(
      "[clients]\ncount = 5\n[run]\nrounds = 40\n[data]\nsynthetic_samples = 50\n"
      "[model]\nname = mlp\nhidden = 10, 12\n[method]\nname = msfusion\n",
      more);
}

std::unique_ptr<SubmodelRule> rule_of(const Setting& s) {
  const PeakBytes free = [](const Assignment&, std::int64_t) { return std::int64_t{0}; };
  return rounds_catalogue()
      .submodels.get("double_shift")
      .value.make({s.config, s.experiment, free});
}

std::vector<int> cut_axes(const Setting& s) {
  std::vector<int> axes;
  const Layout& layout = *s.experiment.model.layout;
  for (std::size_t axis = 0; axis < layout.axes.size(); ++axis) {
    if (layout.axes[axis].cuttable) axes.push_back(static_cast<int>(axis));
  }
  return axes;
}

std::set<std::int64_t> units(const Submodel& submodel, int axis) {
  const auto kept = submodel.units(axis);
  return {kept.begin(), kept.end()};
}

std::set<std::int64_t> window(std::int64_t offset, std::int64_t w, std::int64_t h) {
  std::set<std::int64_t> kept;
  for (std::int64_t k = 0; k < w; ++k) kept.insert((offset + k) % h);
  return kept;
}

TEST(DoubleShift, WindowsAreThoseOfTheFormula) {
  const auto s = fusion("[method]\noverlap_schedule = constant\noverlap_start = 0.4\n");
  const auto rule = rule_of(*s);
  const std::vector<int> axes = cut_axes(*s);
  for (const std::int64_t r : {0, 1, 7, 30}) {
    for (std::int64_t n = 0; n < 5; ++n) {
      const Assignment a = rule->choose(s->experiment, {n, r, r, n});
      // Widths 5 and 6; shifts floor(0.6 5) = 3 and floor(0.6 6) = 3.
      EXPECT_EQ(units(a.submodel, axes[0]), window(r + 3 * n, 5, 10)) << r << n;
      // q = 2 ceil(12 / 12) + 1 = 3.
      EXPECT_EQ(units(a.submodel, axes[1]), window(3 * r + 6 * (r / 12) + 3 * n, 6, 12)) << r << n;
      EXPECT_EQ(a.width, 0.5);
      EXPECT_FALSE(a.traffic.has_value());
    }
  }
}

TEST(DoubleShift, WindowsDependOnThePlaceInTheRoundNotOnTheClient) {
  const auto s = fusion("[clients]\nper_round = 3\n");
  const auto rule = rule_of(*s);
  const int axis = cut_axes(*s)[0];
  std::set<std::int64_t> all;
  for (std::int64_t slot = 0; slot < 3; ++slot) {
    const auto one = rule->choose(s->experiment, {4 - slot, 0, 2, slot}).submodel;
    EXPECT_EQ(one, rule->choose(s->experiment, {slot, 0, 2, slot}).submodel);
    all.merge(units(one, axis));
  }
  EXPECT_EQ(all.size(), 10u);  // of 3 x 5 places
  EXPECT_NE(rule->choose(s->experiment, {0, 0, 2, 0}).submodel,
            rule->choose(s->experiment, {0, 0, 2, 1}).submodel);
}

TEST(DoubleShift, ParticipantsWithRatesOfTheirOwnLieHeadToTail) {
  const auto s = fusion(
      "[method]\nsplit_rate = 0.2, 0.4, 0.6, 0.2, 1\nlayer_shift = equal\n"
      "overlap_schedule = constant\noverlap_start = 0\n");
  const auto rule = rule_of(*s);
  const int axis = cut_axes(*s)[0];
  const std::vector<std::int64_t> widths{2, 4, 6, 2, 10};
  std::int64_t offset = 3;
  for (std::int64_t n = 0; n < 5; ++n) {
    const Submodel own = rule->choose(s->experiment, {n, 0, 3, 0}).submodel;
    EXPECT_EQ(own.width(axis), widths[static_cast<std::size_t>(n)]);
    if (n < 4) {
      EXPECT_EQ(units(own, axis), window(offset, widths[static_cast<std::size_t>(n)], 10));
    }
    offset += widths[static_cast<std::size_t>(n)];
  }
}

TEST(DoubleShift, ShiftsCanBeLeftOut) {
  const auto s = fusion("[method]\nround_shift = 0\nparticipant_shift = false\n");
  const auto rule = rule_of(*s);
  for (const std::int64_t r : {0, 5}) {
    for (std::int64_t n = 0; n < 5; ++n) {
      EXPECT_EQ(rule->choose(s->experiment, {n, r, r, n}).submodel,
                window_submodel(*s->experiment.model.layout, 0.5, 0));
    }
  }
  const auto random = fusion("[method]\nlayer_shift = random\n");
  const auto drawn = rule_of(*random);
  std::set<std::int64_t> firsts;
  for (std::int64_t r = 0; r < 30; ++r) {
    const Submodel one = drawn->choose(random->experiment, {0, r, r, 0}).submodel;
    EXPECT_EQ(one, drawn->choose(random->experiment, {0, r, r, 0}).submodel);
    const auto kept = units(one, cut_axes(*random)[0]);
    for (std::int64_t offset = 0; offset < 10; ++offset) {
      if (kept == window(offset, 5, 10)) firsts.insert(offset);
    }
  }
  EXPECT_GT(firsts.size(), 6u);
}

TEST(DoubleShift, OverlapFallsWhenTheTrainingLossStays) {
  const std::string text =
      "[method]\noverlap_schedule = plateau\noverlap_start = 0.6\nlayer_shift = equal\n"
      "round_shift = 0\n";
  const auto s = fusion(text);
  auto rule = rule_of(*s);
  const Submodel full = Submodel::full(*s->experiment.model.layout);
  const Parameters none;
  const int axis = cut_axes(*s)[0];
  const auto second = [&] {
    return units(rule->choose(s->experiment, {1, 0, 0, 1}).submodel, axis);
  };
  const auto version = [&](double loss) {
    rule->observe(s->experiment, {.submodel = full, .train_loss = loss});
    rule->merged(s->experiment, {1, none, {}});
  };
  EXPECT_EQ(second(), window(2, 5, 10));  // floor(0.4 5)
  version(1);
  for (int i = 0; i < 4; ++i) version(1);
  EXPECT_EQ(second(), window(2, 5, 10));
  // Saved and restored in the middle.
  ByteArchive saved;
  rule->archive(saved);
  const Bytes bytes = saved.take();
  rule = rule_of(*s);
  ByteArchive archive(bytes);
  rule->archive(archive);
  version(1.5);  // the fifth without progress: 0.5, still floor(2.5)
  for (int i = 0; i < 5; ++i) version(1);
  EXPECT_EQ(second(), window(3, 5, 10));  // 0.4
  for (int i = 0; i < 20; ++i) version(0.9 - 0.01 * i);
  EXPECT_EQ(second(), window(3, 5, 10));
}

TEST(DoubleShift, WhatNobodyHoldsStaysToTheBit) {
  const auto s = fusion("[clients]\nper_round = 2\n[method]\nsplit_rate = 0.3\ncontrast = 0\n");
  const Experiment& e = s->experiment;
  const auto rule = rule_of(*s);
  Parameters model(e.plans->buffer_layout(Submodel::full(*e.model.layout), Packing::aligned));
  initialise(model, e.seed);
  const at::Tensor before = model.flat().clone();
  std::vector<Update> updates;
  at::Tensor held = at::zeros_like(before);
  for (std::int64_t n = 0; n < 2; ++n) {
    const Submodel submodel = rule->choose(e, {n, 0, 0, n}).submodel;
    const TrainedTask trained = train(*s, submodel);
    auto bytes = std::make_shared<Bytes>(trained.values.size() * sizeof(float));
    std::memcpy(bytes->data(), trained.values.data(), bytes->size());
    Update update;
    update.client = update.task = n;
    update.samples = 10;
    update.buffer_layout = e.plans->buffer_layout(submodel, Packing::dense);
    update.values = bytes;
    updates.push_back(update);
    e.plans->plan(*update.buffer_layout, model.buffer_layout(), nullptr, kTrained)
        ->for_each_value([&](std::int64_t, std::int64_t to) { held.data_ptr<float>()[to] = 1; });
  }
  rounds_catalogue().merges.get("average").value({s->config, e})->merge(e, model, updates);
  const at::Tensor changed = model.flat().ne(before);
  EXPECT_EQ(changed.logical_and(held.eq(0)).sum().item<std::int64_t>(), 0);
  EXPECT_GT(changed.sum().item<std::int64_t>(), 100);
  EXPECT_LT(held.sum().item<double>(), 0.9 * static_cast<double>(held.numel()));
}

// The exchange among peers --------------------------------------------------------------------

/// Units that two windows of w on a circle of h have in common, if they begin d apart.
std::int64_t in_common(std::int64_t d, std::int64_t w, std::int64_t h) {
  d = (d % h + h) % h;
  return std::max<std::int64_t>(0, w - d) + std::max<std::int64_t>(0, w - (h - d));
}

TEST(PeerExchange, BytesHaveAClosedForm) {
  // One hidden layer of 12 units; 256 inputs, 10 classes: 267 values of a unit, 10 of none.
  constexpr std::int64_t kPerUnit = 256 + 1 + 10, kAlways = 10;
  const auto s = make_setting(
      "[clients]\ncount = 4\n[run]\nrounds = 9\n[data]\nsynthetic_samples = 40\n"
      "[model]\nname = mlp\nhidden = 12\n[method]\nname = msfusion\nexchange = peers\n"
      "overlap_schedule = constant\noverlap_start = 0.5\n",
      "");
  const auto rule = rule_of(*s);
  const std::int64_t h = 12, w = 6, apart = 3;  // every unit is kept by two
  for (std::int64_t n = 0; n < 4; ++n) {
    std::int64_t sent = 0, received = 0;
    for (std::int64_t m = 0; m < 4; ++m) {
      if (m == n) continue;
      sent += 4 * (kPerUnit * in_common((m - n) * apart + 1, w, h) + kAlways) + 8;
      received += 4 * (kPerUnit * in_common((n - m) * apart + 1, w, h) + kAlways) + 8;
    }
    for (const std::int64_t r : {1, 5}) {
      const auto traffic = rule->choose(s->experiment, {n, r, r, n}).traffic.value();
      EXPECT_EQ(traffic.sent, sent);
      EXPECT_EQ(traffic.received, received);
    }
    const auto first = rule->choose(s->experiment, {n, 0, 0, n}).traffic.value();
    EXPECT_EQ(first.received, 4 * (kPerUnit * w + kAlways));
    EXPECT_EQ(first.sent, sent);
  }
}

TEST(PeerExchange, EqualsTheCountOfEveryValueByItself) {
  // Too narrow for all units, so that owners keep values.
  const auto s = fusion("[method]\nsplit_rate = 0.1\nexchange = peers\n");
  const auto rule = rule_of(*s);
  const Experiment& e = s->experiment;
  const BufferLayout full(e.model.layout, Submodel::full(*e.model.layout), Packing::dense);
  // By value: its row, and the participants that hold it in a round.
  std::vector<std::int64_t> rows(static_cast<std::size_t>(full.size()), 0);
  for (std::size_t entry = 0; entry < e.model.layout->entries.size(); ++entry) {
    const auto& place = full.place(static_cast<int>(entry));
    for (std::int64_t i = 0; i < place.count; ++i) {
      rows[static_cast<std::size_t>(place.offset + i)] = i / (place.count / place.shape[0]);
    }
  }
  const auto holders = [&](std::int64_t version) {
    std::vector<std::set<std::int64_t>> of(rows.size());
    for (std::int64_t n = 0; n < 5; ++n) {
      const Submodel submodel = rule->choose(e, {n, version, version, n}).submodel;
      const BufferLayout small(e.model.layout, submodel, Packing::dense);
      Plan(small, full).for_each_value([&](std::int64_t, std::int64_t to) {
        of[static_cast<std::size_t>(to)].insert(n);
      });
    }
    return of;
  };
  for (const std::int64_t r : {1, 4}) {
    const auto now = holders(r - 1), next = holders(r);
    std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> bytes;
    std::int64_t kept_by_owners = 0;
    for (std::size_t value = 0; value < rows.size(); ++value) {
      const std::int64_t owner = rows[value] % 5;
      std::set<std::int64_t> from = now[value], to = next[value];
      if (from.empty() && to.empty()) continue;
      kept_by_owners += from.empty() || to.empty();
      if (from.empty()) from = {owner};
      if (to.empty()) to = {owner};
      for (const std::int64_t a : from) {
        for (const std::int64_t b : to) {
          if (a != b) bytes[{a, b}] += 4;
        }
      }
    }
    EXPECT_GT(kept_by_owners, 0);
    for (std::int64_t n = 0; n < 5; ++n) {
      std::int64_t sent = 0, received = 0;
      for (const auto& [pair, count] : bytes) {
        if (pair.first == n) sent += count + kWeightBytes;
        if (pair.second == n) received += count + kWeightBytes;
      }
      EXPECT_EQ(rule->choose(e, {n, r, r, n}).traffic->received, received) << r << n;
      EXPECT_EQ(rule->choose(e, {n, r - 1, r - 1, n}).traffic->sent, sent) << r << n;
    }
  }
}

TEST(PeerExchange, IsRefusedWhereParticipantsMayBeMissing) {
  for (const std::string more :
       {"[clients]\nper_round = 2\n", "[window]\nmin_updates = 2\n", "[faults]\ncrash = 0.1\n",
        "[server]\nup_mbps = 10\n", "[method]\noverlap_schedule = plateau\n",
        "[clients]\nfleet = 5*away\n[device.away]\navailability = 0.5\n"}) {
    const auto s = fusion("[method]\nexchange = peers\n" + more);
    try {
      rule_of(*s);
      ADD_FAILURE() << more;
    } catch (const InputError& error) {
      EXPECT_NE(std::string(error.what()).find("set method.exchange = served"), std::string::npos);
    }
  }
}

// The contrast --------------------------------------------------------------------------------

at::Tensor drawn(std::int64_t seed, std::vector<std::int64_t> shape) {
  at::Tensor t = at::empty(shape);
  Stream stream(seed, kTest);
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    t.data_ptr<float>()[i] = static_cast<float>(stream.normal());
  }
  return t;
}

double cosine(const at::Tensor& a, const at::Tensor& b) {
  double product = 0, aa = 0, bb = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const double x = a[i].item<double>(), y = b[i].item<double>();
    product += x * y;
    aa += x * x;
    bb += y * y;
  }
  return product / std::sqrt(aa * bb);
}

TEST(Contrast, EqualsItsFormula) {
  constexpr double kTemperature = 0.3;
  const at::Tensor z = drawn(1, {6, 5}), positive = drawn(2, {6, 5}), negative = drawn(3, {6, 5});
  const at::Tensor other = drawn(4, {6, 5});
  double to = 0, to_two = 0, within = 0;
  for (std::int64_t i = 0; i < 6; ++i) {
    const double p = std::exp(cosine(z[i], positive[i]) / kTemperature);
    const double n = std::exp(cosine(z[i], negative[i]) / kTemperature);
    const double o = std::exp(cosine(z[i], other[i]) / kTemperature);
    to -= std::log(p / (p + n)) / 6;
    to_two -= std::log(p / (p + n + o)) / 6;
    double all = 0;
    for (std::int64_t j = 0; j < 6; ++j) all += std::exp(cosine(z[i], positive[j]) / kTemperature);
    within -= std::log(p / all) / 6;
  }
  EXPECT_NEAR(contrast_to(z, positive, {negative}, kTemperature).item<double>(), to, 1e-6);
  EXPECT_NEAR(contrast_to(z, positive, {negative, other}, kTemperature).item<double>(), to_two,
              1e-6);
  EXPECT_NEAR(contrast_within(z, positive, kTemperature).item<double>(), within, 1e-6);
}

/// One step a task with all samples; the projection head is small.
std::unique_ptr<Setting> contrast(const std::string& more) {
  return make_setting(
      "[data]\nsynthetic_samples = 30\n[model]\nname = cnn\nchannels = 10, 20\nfeatures = 40\n"
      "projection = 8\n[train]\nsteps = 1\nbatch = 30\nlr = 0.1\n[method]\nname = moon\n"
      "temperature = 0.4\n",
      more);
}

TEST(Contrast, WithoutWeightIsFedAvgToTheBitAndKeepsNothing) {
  const std::string steps = "[train]\nsteps = 4\nbatch = 7\n";
  const auto plain = contrast(steps + "[method]\nobjective = cross_entropy\n");
  const auto none = contrast(steps + "[method]\ncontrast = 0\n");
  const auto some = contrast(steps + "[method]\nnegatives = batch\n");
  const Submodel full = Submodel::full(*plain->experiment.model.layout);
  const TrainedTask a = train(*plain, full), b = train(*none, full);
  EXPECT_EQ(a.values, b.values);
  EXPECT_EQ(a.result.peak_bytes, b.result.peak_bytes);
  EXPECT_TRUE(b.result.state.empty());
  EXPECT_NE(a.values, train(*some, full).values);
}

TEST(Contrast, FirstTaskHasNoPreviousModelAndIsPlain) {
  const auto plain = contrast("[method]\nobjective = cross_entropy\n");
  const auto moon = contrast("");
  const Submodel full = Submodel::full(*plain->experiment.model.layout);
  const TrainedTask first = train(*moon, full);
  EXPECT_EQ(first.values, train(*plain, full).values);
  EXPECT_FALSE(first.result.state.empty());
}

/// A client's model after a task, and its submodel.
struct Before {
  const TrainedTask& task;
  const Submodel& submodel;
};

/// The values after one step from the first values, by the formula. Without negatives: those of the
/// batch.
std::vector<float> expected(const Setting& s, const Submodel& submodel,
                            const std::vector<Before>& negative_models, double weight) {
  const Experiment& e = s.experiment;
  const auto own = e.plans->buffer_layout(submodel, Packing::aligned);
  Parameters full(e.plans->buffer_layout(Submodel::full(*e.model.layout), Packing::aligned));
  initialise(full, e.seed);
  Parameters p(own), received(own);
  for (Parameters* copy : {&p, &received}) {
    e.plans->plan(full.buffer_layout(), *own)->copy(full.data(), copy->data());
  }
  p.attach_gradients();
  p.zero_gradients();
  std::vector<std::int64_t> all(30);
  std::iota(all.begin(), all.end(), 0);
  const at::Tensor x = e.data.train->inputs(all, nullptr), y = e.data.train->labels(all);
  const auto run = [&](const Parameters& weights, at::Tensor& z) {
    Context context;
    context.mode = Mode::train;
    context.scaler = true;
    context.projected = &z;
    return forward(e.model, weights, x, context);
  };
  at::Tensor z, anchor;
  std::vector<at::Tensor> negatives;
  const at::Tensor logits = run(p, z);
  EXPECT_EQ(z.size(1), 8);
  {
    c10::NoGradGuard no_grad;
    run(received, anchor);
    for (const Before& before : negative_models) {
      const auto dense = e.plans->buffer_layout(before.submodel, Packing::dense);
      Parameters old(e.plans->buffer_layout(before.submodel, Packing::aligned));
      e.plans->plan(*dense, old.buffer_layout())->copy(before.task.values.data(), old.data());
      run(old, negatives.emplace_back());
    }
  }
  const at::Tensor term =
      negatives.empty() ? contrast_within(z, anchor, 0.4) : contrast_to(z, anchor, negatives, 0.4);
  (at::cross_entropy_loss(logits, y) + term * weight).backward();
  {
    c10::NoGradGuard no_grad;
    p.trainable().sub_(p.gradients(), 0.1);
  }
  const auto dense = e.plans->buffer_layout(submodel, Packing::dense);
  std::vector<float> values(static_cast<std::size_t>(dense->count(Kind::trainable)));
  e.plans->plan(*own, *dense, nullptr, kTrained)->copy(p.data(), values.data());
  return values;
}

void expect_near(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, static_cast<double>(std::abs(a[i] - b[i])));
  }
  EXPECT_LT(largest, 1e-6);
}

PeerModel peer_model(const Before& before) {
  Bytes bytes(before.task.values.size() * sizeof(float));
  std::memcpy(bytes.data(), before.task.values.data(), bytes.size());
  return {before.submodel, to_shared(std::move(bytes))};
}

TEST(Contrast, AStepFollowsTheGradientOfTheFormula) {
  const auto plain = contrast("[method]\nobjective = cross_entropy\nscaler = true\n");
  const auto batch = contrast("[method]\nnegatives = batch\n");
  const auto moon = contrast("");
  const Layout& layout = *moon->experiment.model.layout;
  // The previous model is of another window.
  const Submodel before = window_submodel(layout, 0.5, 0), now = window_submodel(layout, 0.5, 3);
  const TrainedTask first = train(*moon, before);
  const TrainedTask second = train(*moon, now, first.result.state);
  expect_near(second.values, expected(*moon, now, {{first, before}}, 5));
  const TrainedTask within = train(*batch, now);
  expect_near(within.values, expected(*batch, now, {}, 5));
  // The terms are well above the tolerance.
  const TrainedTask without = train(*moon, now);
  double by_previous = 0, by_batch = 0;
  for (std::size_t i = 0; i < without.values.size(); ++i) {
    by_previous = std::max<double>(by_previous, std::abs(second.values[i] - without.values[i]));
    by_batch = std::max<double>(by_batch, std::abs(within.values[i] - without.values[i]));
  }
  EXPECT_GT(by_previous, 1e-4);
  EXPECT_GT(by_batch, 1e-4);
}

TEST(Contrast, ModelsOfOtherClientsAreNegativesBesideTheOwn) {
  const auto s = contrast("[method]\nnegatives = peers\npeers = 2\n");
  const Layout& layout = *s->experiment.model.layout;
  const Submodel before = window_submodel(layout, 0.5, 0), now = window_submodel(layout, 0.5, 3);
  const Submodel other = window_submodel(layout, 0.25, 7);
  const TrainedTask own = train(*s, before), narrow = train(*s, other), same = train(*s, now);
  const std::vector<Before> models{{own, before}, {narrow, other}, {same, now}};
  const std::vector<PeerModel> peers{peer_model(models[1]), peer_model(models[2])};
  expect_near(train(*s, now, own.result.state, peers).values, expected(*s, now, models, 5));
  // Without a previous model the others are the only negatives.
  expect_near(train(*s, now, {}, {peers[0]}).values, expected(*s, now, {models[1]}, 5));
  EXPECT_NE(train(*s, now, {}, {peers[0]}).values, train(*s, now, {}, {peers[1]}).values);
}

TEST(Contrast, ATaskGetsTheModelsOfTheClientsThatFollow) {
  const auto s = contrast("");
  PlanCache& plans = *s->experiment.plans;
  const Layout& layout = *s->experiment.model.layout;
  const Submodel half = window_submodel(layout, 0.5, 0), wide = window_submodel(layout, 0.75, 0);
  std::vector<Update> updates;
  const auto add = [&](std::int64_t client, const Submodel& submodel) {
    Update update;
    update.client = client;
    update.buffer_layout = plans.buffer_layout(submodel, Packing::shared);
    update.values =
        to_shared(Bytes(static_cast<std::size_t>(payload_bytes(*update.buffer_layout))));
    updates.push_back(update);
  };
  for (const std::int64_t client : {1, 3, 3, 8}) add(client, half);  // two updates of client 3
  add(9, wide);
  PeerModels models(2);
  EXPECT_TRUE(models.models_for(1, half).empty());  // before the first merge
  models.keep(updates);
  const auto values_for = [&](const PeerModels& from, std::int64_t client,
                              const Submodel& submodel) {
    std::vector<const Bytes*> values;
    for (const PeerModel& model : from.models_for(client, submodel)) {
      values.push_back(model.values.get());
    }
    return values;
  };
  const auto of = [&](std::size_t a, std::size_t b) {
    return std::vector<const Bytes*>{updates[a].values.get(), updates[b].values.get()};
  };
  EXPECT_EQ(values_for(models, 1, half), of(2, 3));
  EXPECT_EQ(values_for(models, 3, half), of(3, 0));  // client 9's is larger, 1 follows the last
  EXPECT_EQ(values_for(models, 3, wide), of(3, 4));
  EXPECT_EQ(values_for(models, 5, half), of(3, 0));  // a client that was not in the merge
  EXPECT_EQ(PeerModels(0).models_for(1, half).size(), 0u);
  ByteArchive saved;
  models.archive(saved, layout);
  const Bytes bytes = saved.take();
  ByteArchive in(bytes);
  PeerModels restored(2);
  restored.archive(in, layout);
  const auto a = models.models_for(3, wide), b = restored.models_for(3, wide);
  ASSERT_EQ(b.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(b[i].submodel, a[i].submodel);
    EXPECT_EQ(*b[i].values, *a[i].values);
  }
}

TEST(Contrast, ALargerPreviousModelIsNotUsed) {
  const auto moon = contrast("");
  const Layout& layout = *moon->experiment.model.layout;
  const Submodel small = window_submodel(layout, 0.5, 3);
  const TrainedTask large = train(*moon, Submodel::full(layout));
  EXPECT_EQ(train(*moon, small, large.result.state).values, train(*moon, small).values);
}

TEST(Contrast, PeakStaysWithinItsBound) {
  const std::vector<std::string> models{
      "", "[model]\nprojection = 0\n", "[model]\nprojection = 256\n",
      "[model]\nname = mlp\nhidden = 60, 40\n[train]\nbatch = 20\n[data]\nsynthetic_samples = 60\n",
      "[model]\nname = gpt\nembed = 16\nheads = 2\ndepth = 2\nprojection = 0\n"
      "[data]\nsynthetic_vocabulary = 40\nlength = 12\nsynthetic_labels = next_token\n"};
  for (const std::string& model : models) {
    for (const std::string negatives : {"previous", "peers", "batch"}) {
      const auto s = contrast(model + "[method]\npeers = 3\nnegatives = " + negatives + "\n");
      const Experiment& e = s->experiment;
      for (const double width : {1.0, 0.5, 0.25}) {
        const Submodel before = window_submodel(*e.model.layout, width, 1);
        const Submodel submodel = window_submodel(*e.model.layout, width, 0);
        const auto objective = s->rules.objective({s->config, s->experiment});
        const auto bound = task_cost(e, *objective, submodel, e.batch_of(0)).peak_bytes;
        const auto first = train(*s, before);
        std::vector<PeerModel> peers;
        if (negatives == "peers") peers.assign(3, peer_model({first, before}));
        const auto peak = train(*s, submodel, first.result.state, peers).result.peak_bytes;
        if (std::getenv("ESPALIER_SHOW")) {
          fmt::print("{:.4f} {} {} {} {}\n", static_cast<double>(bound) / static_cast<double>(peak),
                     peak, negatives, width, model);
        }
        EXPECT_LE(peak, bound) << model << negatives << width;
        EXPECT_LE(static_cast<double>(bound), 1.25 * static_cast<double>(peak))
            << model << negatives << width;
      }
    }
  }
}

TEST(Contrast, FrozenPassesAreCharged) {
  const auto plain = contrast("[method]\nobjective = cross_entropy\n");
  const auto moon = contrast("");
  const auto batch = contrast("[method]\nnegatives = batch\n");
  const auto peers = contrast("[method]\nnegatives = peers\npeers = 2\n");
  const TrainedTask other = train(*peers, Submodel::full(*plain->experiment.model.layout));
  const auto flight = [&](const Setting& s, std::int64_t nth_task, std::size_t others = 0) {
    const Experiment& e = s.experiment;
    TaskCosts costs(e, {s.rules.objective({s.config, e}), nullptr});
    SentTask sent;
    sent.task.submodel = Submodel::full(*e.model.layout);
    sent.task.nth_task = nth_task;
    sent.buffer_layout = e.plans->buffer_layout(sent.task.submodel, Packing::dense);
    sent.task.peers.assign(others, peer_model({other, sent.task.submodel}));
    return costs.flight_of(sent, 0);
  };
  const auto flops = [&](const Setting& s, std::int64_t nth_task, std::size_t others = 0) {
    return flight(s, nth_task, others).flops;
  };
  const std::int64_t step = flops(*plain, 1);
  EXPECT_EQ(flops(*moon, 0), step);
  EXPECT_EQ(flops(*moon, 1), step + 2 * (step / 3));  // 5/3: two more forward passes
  EXPECT_EQ(flops(*batch, 0), step + step / 3);
  EXPECT_EQ(flops(*peers, 0), step);
  EXPECT_EQ(flops(*peers, 0, 1), step + 2 * (step / 3));
  EXPECT_EQ(flops(*peers, 1, 2), step + 4 * (step / 3));
  // The link too: each model, the code of its submodel, and three lengths.
  const std::int64_t code = std::ssize(Submodel::full(*plain->experiment.model.layout).encode());
  EXPECT_EQ(flight(*peers, 1, 2).bytes_down - flight(*peers, 1, 1).bytes_down,
            static_cast<std::int64_t>(4 * other.values.size()) + 8 * (code + 2));
}

}  // namespace
}  // namespace espalier::rounds
