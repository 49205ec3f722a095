// Bandwidth of gather, scatter and accumulate divided by the bandwidth of a plain copy, on the
// layout of the CNN of 1,663,370 parameters cut to half width. One line per case: name, measured
// ratio, bar, pass or miss.

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../purpose.h"
#include "espalier/base/random.h"
#include "espalier/model/plan.h"
#include "pairs.h"

namespace {

using namespace espalier;

constexpr int kRepeats = 20;

/// The bandwidth of `work` divided by the baseline's.
bool reaches(const std::string& name, const std::function<void()>& baseline,
             const std::function<void()>& work, double bar) {
  return report(name, time_ratio(name, baseline, work, kRepeats), bar, true);
}

std::shared_ptr<const Layout> cnn() {
  Layout l;
  const int first = l.add_axis("conv1", 32);
  const int second = l.add_axis("conv2", 64);
  const int hidden = l.add_axis("hidden", 512);
  const int classes = l.add_axis("classes", 10, false);
  l.add_block("all");
  const auto add = [&](std::string name, std::vector<Dimension> dimensions) {
    l.add_entry({std::move(name), Kind::trainable, 0, std::move(dimensions), {}});
  };
  const Dimension five = Layout::constant(5);
  add("conv1.weight", {l.along(first), Layout::constant(1), five, five});
  add("conv1.bias", {l.along(first)});
  add("conv2.weight", {l.along(second), l.along(first), five, five});
  add("conv2.bias", {l.along(second)});
  add("fc.weight", {l.along(hidden), l.along(second, 49)});
  add("fc.bias", {l.along(hidden)});
  add("head.weight", {l.along(classes), l.along(hidden)});
  add("head.bias", {l.along(classes)});
  return std::make_shared<const Layout>(l);
}

Submodel half(const Layout& layout, const std::string& rule) {
  Submodel submodel = Submodel::full(layout);
  Stream stream(1, kTest);
  for (int axis = 0; axis < submodel.axes(); ++axis) {
    const std::int64_t size = layout.axes[axis].size;
    if (!layout.axes[axis].cuttable) continue;
    std::vector<std::int64_t> units;
    for (std::int64_t i = 0; i < size / 2; ++i)
      units.push_back(rule == "rolling" ? (i + size * 3 / 4) % size : i);
    if (rule == "random") units = stream.choose(size / 2, size);
    std::ranges::sort(units);
    submodel.keep(axis, std::move(units));
  }
  return submodel;
}

}  // namespace

int main() {
  bool pass = true;
  const auto layout = cnn();
  const BufferLayout full(layout, Submodel::full(*layout), Packing::aligned);
  std::vector<float> model(full.size(), 1.0f);
  std::vector<double> numerator(full.size(), 0.0);
  std::vector<double> denominator(full.size(), 0.0);
  for (const std::string rule : {"leading", "rolling", "random"}) {
    const double bar = rule == "random" ? 0.25 : 0.60;
    const BufferLayout small(layout, half(*layout, rule), Packing::dense);
    const Plan gather(full, small);
    const Plan scatter(small, full);
    const std::int64_t count = scatter.count();
    std::vector<float> part(count, 1.0f);
    std::vector<float> plain(count, 1.0f);
    const auto copy = [&] {
      std::memcpy(plain.data(), part.data(), static_cast<std::size_t>(count) * sizeof(float));
    };
    pass &= reaches(
        "gather " + rule, copy, [&] { gather.copy(model.data(), part.data()); }, bar);
    pass &= reaches(
        "scatter " + rule, copy, [&] { scatter.copy(part.data(), model.data()); }, bar);

    // Numerator and denominator are two doubles per value; the baseline copies the same bytes.
    std::vector<double> from(2 * count, 1.0);
    std::vector<double> to(2 * count, 1.0);
    const auto copy_doubles = [&] {
      std::memcpy(to.data(), from.data(), static_cast<std::size_t>(2 * count) * sizeof(double));
    };
    const Range all{0, full.size()};
    const auto accumulate = [&] {
      scatter.accumulate(all, part.data(), 0.5, numerator.data(), denominator.data());
    };
    pass &= reaches("accumulate " + rule, copy_doubles, accumulate, bar);
  }
  const Submodel random = half(*layout, "random");
  std::vector<double> build_ms;
  bool whole = true;
  for (int i = 0; i < 15; ++i) {
    const auto build = [&] {
      const BufferLayout small(layout, random, Packing::dense);
      whole &= Plan(full, small).count() == small.count();
    };
    build_ms.push_back(1e3 * seconds(build, 1));
  }
  if (!whole) return 70;
  pass &= report("build random plan (ms)", median(build_ms), 30);
  return pass ? 0 : 1;
}
