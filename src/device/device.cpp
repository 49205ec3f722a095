#include "espalier/device/device.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <optional>
#include <sstream>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "espalier/base/shipped.h"
#include "espalier/device/emulated_time.h"

namespace espalier {
namespace {

constexpr double kNanosecondsPerByteAtOneMbps = 8000;
const Purpose kModes = register_purpose("clients.modes");

const DeviceClass kLaptop{.name = "laptop",
                          .memory_mb = 0,
                          .gflops = 50,
                          .down_mbps = 100,
                          .up_mbps = 20,
                          .latency_ms = 10};

struct Field {
  const char* name;
  double DeviceClass::*member;
  const char* unit;
  double minimum;
  const char* help;
  double maximum = 0;  // 0: none
};

// The smallest rates only exclude zero and negative rates.
constexpr Field kFields[] = {
    {"memory_mb", &DeviceClass::memory_mb, "MB", 0, "memory of a client; 0 = not capped", 9e12},
    {"gflops", &DeviceClass::gflops, "GFLOP/s", 1e-6, "effective arithmetic rate"},
    {"down_mbps", &DeviceClass::down_mbps, "Mbit/s", 0, "download rate; 0 = bytes cost no time"},
    {"up_mbps", &DeviceClass::up_mbps, "Mbit/s", 0, "upload rate; 0 = bytes cost no time"},
    {"availability", &DeviceClass::availability, "", 0,
     "fraction of the time in which a client can be given work, at most 1"},
    {"gflops_conv", &DeviceClass::gflops_conv, "GFLOP/s", 0,
     "effective rate of convolutions; 0 = gflops"},
    {"gflops_matmul", &DeviceClass::gflops_matmul, "GFLOP/s", 0,
     "effective rate of matrix products; 0 = gflops"},
    {"gflops_attention", &DeviceClass::gflops_attention, "GFLOP/s", 0,
     "effective rate of attention: scores and weighted values; 0 = gflops"},
    {"memory_gbps", &DeviceClass::memory_gbps, "GB/s", 0,
     "effective memory bandwidth, which may bound a block; 0 = not limited"},
    {"overhead_us", &DeviceClass::overhead_us, "us", 0, "fixed cost of each block in each step"},
    {"latency_ms", &DeviceClass::latency_ms, "ms", 0, "delay of each message, in both directions"},
};

constexpr std::pair<const char*, std::vector<double> DeviceClass::*> kLists[] = {
    {"modes", &DeviceClass::modes}, {"link_modes", &DeviceClass::link_modes}};

/// `options`: that may have a wrong unit.
Nanoseconds checked_length(double nanoseconds, const std::string& what,
                           const std::string& options) {
  if (!(nanoseconds <= kHundredYears)) {
    throw InputError(
        formatted("{} would take more than 100 years: check the units of {}", what, options));
  }
  return std::llround(nanoseconds);
}

Nanoseconds work_time(double nanoseconds, const DeviceClass& device, std::int64_t flops) {
  return checked_length(nanoseconds, formatted("work of {} FLOP on a '{}'", flops, device.name),
                        formatted("its device's rates, first device.{}.gflops", device.name));
}

std::string trimmed(const std::string& text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

std::int32_t class_index(const std::vector<DeviceClass>& classes, const std::string& name) {
  for (std::size_t i = 0; i < classes.size(); ++i) {
    if (classes[i].name == name) return static_cast<std::int32_t>(i);
  }
  const auto is_known = [&](const std::string& word) {
    return std::ranges::any_of(classes, [&](const auto& device) { return device.name == word; });
  };
  // A count without its star: "4 slow", "4slow", "4xslow", "4 x slow".
  const std::size_t digits = name.find_first_not_of("0123456789");
  if (digits != 0 && digits != std::string::npos) {
    std::string rest = trimmed(name.substr(digits));
    if (!is_known(rest) && rest.starts_with('x')) rest = trimmed(rest.substr(1));
    if (is_known(rest)) {
      throw InputError(formatted("clients.fleet has the part '{}'; did you mean {}*{}?", name,
                                 name.substr(0, digits), rest));
    }
  }
  if (name.find_first_of(" \t;*") != std::string::npos) {
    throw InputError(
        formatted("clients.fleet has the part '{}': write counts, '*' and devices, separated by "
                  "commas, such as 2*laptop, 3*phone",
                  name));
  }
  std::string names;
  for (const DeviceClass& device : classes) names += (names.empty() ? "" : ", ") + device.name;
  throw InputError(
      formatted("clients.fleet names the device '{}', which is not defined; there are: {}; add a "
                "section [device.{}]",
                name, names, name));
}

/// The classes of the clients of one pattern such as `2*fast, 4*slow`.
std::vector<std::int32_t> parse_pattern(const std::string& fleet,
                                        const std::vector<DeviceClass>& classes,
                                        std::int64_t clients) {
  std::vector<std::int32_t> pattern;
  std::stringstream parts(fleet);
  for (std::string part; std::getline(parts, part, ',');) {
    const auto star = part.find('*');
    const std::string name = trimmed(star == std::string::npos ? part : part.substr(star + 1));
    std::int64_t count = 1;
    if (star != std::string::npos) {
      const std::string digits = trimmed(part.substr(0, star));
      const auto [end, error] =
          std::from_chars(digits.data(), digits.data() + digits.size(), count);
      if (error != std::errc{} || end != digits.data() + digits.size()) count = 0;
    }
    if (count < 1 || name.empty()) {
      throw InputError(formatted(
          "clients.fleet has the part '{}': write a count, '*' and a device, such as 2*laptop",
          trimmed(part)));
    }
    const std::int32_t index = class_index(classes, name);
    if (count > clients - static_cast<std::int64_t>(pattern.size())) {
      throw InputError(formatted(
          "clients.fleet = {} names more than clients.count = {} clients: change one of them",
          fleet, clients));
    }
    pattern.insert(pattern.end(), static_cast<std::size_t>(count), index);
  }
  return pattern;
}

}  // namespace

bool has_roofline(const DeviceClass& d) {
  return d.gflops_conv > 0 || d.gflops_matmul > 0 || d.gflops_attention > 0 || d.memory_gbps > 0 ||
         d.overhead_us > 0;
}

Nanoseconds transfer_time(double mbps, double latency_ms, std::int64_t bytes) {
  const double on_the_link =
      mbps > 0 ? static_cast<double>(bytes) * kNanosecondsPerByteAtOneMbps / mbps : 0;
  return checked_length(
      latency_ms * 1e6 + on_the_link,
      formatted("a message of {} bytes at {} Mbit/s and {} ms", bytes, mbps, latency_ms),
      "its device's rates: device.*.down_mbps, up_mbps and latency_ms");
}

Nanoseconds within_century(Nanoseconds time, const std::string& what) {
  if (!is_beyond_century(time)) return time;
  throw InputError(
      formatted("emulated time would pass 100 years: check the units of {}, or end the run earlier "
                "(run.rounds, run.virtual_limit)",
                what));
}

std::int64_t flops_of(std::span<const Steps> steps) {
  std::int64_t flops = 0;
  for (const Steps& s : steps) {
    std::int64_t more = 0;
    if (__builtin_mul_overflow(s.count, s.cost.step_flops, &more) ||
        __builtin_add_overflow(flops, more, &flops)) {
      throw InputError(
          formatted("a task of {} steps of {} FLOP has more operations than the program can count: "
                    "lower train.steps or train.epochs",
                    s.count, s.cost.step_flops));
    }
  }
  return flops;
}

double transfer_mbps(std::int64_t bytes, double nanoseconds) {
  return static_cast<double>(bytes) * kNanosecondsPerByteAtOneMbps / nanoseconds;
}

Nanoseconds compute_time(const DeviceClass& device, std::int64_t flops, double slowdown) {
  return work_time(static_cast<double>(flops) / device.gflops * slowdown, device, flops);
}

double step_nanoseconds(const DeviceClass& device, const TrainingCost& step) {
  const auto or_general = [&](double rate) { return rate > 0 ? rate : device.gflops; };
  std::array<double, kWorks> rates{};
  rates[static_cast<std::size_t>(Work::convolution)] = or_general(device.gflops_conv);
  rates[static_cast<std::size_t>(Work::product)] = or_general(device.gflops_matmul);
  rates[static_cast<std::size_t>(Work::attention)] = or_general(device.gflops_attention);
  rates[static_cast<std::size_t>(Work::other)] = device.gflops;
  double sum = 0;
  for (const BlockCost& block : step.blocks) {
    double arithmetic = 0;
    for (std::size_t work = 0; work < rates.size(); ++work) {
      arithmetic += static_cast<double>(block.step_flops[work]) / rates[work];
    }
    const double memory =
        device.memory_gbps > 0 ? static_cast<double>(block.moved_bytes) / device.memory_gbps : 0;
    sum += std::max(arithmetic, memory) + device.overhead_us * 1e3;
  }
  return sum;
}

Nanoseconds compute_time(const DeviceClass& device, std::span<const Steps> steps, double slowdown) {
  const std::int64_t flops = flops_of(steps);
  if (!has_roofline(device)) return compute_time(device, flops, slowdown);
  double nanoseconds = 0;
  for (const Steps& s : steps) {
    nanoseconds += static_cast<double>(s.count) * step_nanoseconds(device, s.cost);
  }
  return work_time(nanoseconds * slowdown, device, flops);
}

namespace {

/// The catalogue as an input file; empty if it is not found.
Config read_catalogue(const OptionTable& table) {
  Config shipped(table);
  for (const auto& place : shipped_places("devices.ini")) {
    std::error_code ignored;
    if (!std::filesystem::exists(place, ignored)) continue;
    shipped.read_file(place);
    break;
  }
  return shipped;
}

}  // namespace

void bring_catalogue(Config& config) {
  const Config shipped = read_catalogue(config.table());
  const std::vector<std::string> catalogue = shipped.names_below("device");
  std::stringstream parts(config.text("clients.fleet"));
  for (std::string part; std::getline(parts, part, ',');) {
    const std::string name = trimmed(part.substr(part.find('*') + 1));
    if (std::ranges::find(catalogue, name) == catalogue.end()) continue;
    for (const Field& field : kFields) {
      const std::string key = "device." + name + "." + field.name;
      if (shipped.given(key)) config.set_default(key, shipped.text(key));
    }
  }
}

std::vector<DeviceClass> catalogue_classes(const OptionTable& table) {
  return device_classes(read_catalogue(table));
}

std::vector<DeviceClass> device_classes(const Config& config) {
  std::vector<DeviceClass> classes{kLaptop};
  for (const std::string& name : config.names_below("device")) {
    auto device = std::find_if(classes.begin(), classes.end(),
                               [&](const DeviceClass& other) { return other.name == name; });
    if (device == classes.end()) {
      classes.push_back(kLaptop);
      device = classes.end() - 1;
      device->name = name;
    }
    for (const Field& field : kFields) {
      const std::string key = "device." + name + "." + field.name;
      if (config.has(key)) (*device).*field.member = config.real(key);
    }
    for (const auto& [field, member] : kLists) {
      const std::string key = "device." + name + "." + field;
      if (config.given(key)) (*device).*member = config.reals(key);
    }
    const std::string batch = "device." + name + ".batch";
    if (config.given(batch)) device->batch = config.integer(batch);
  }
  return classes;
}

void declare_device_options(OptionTable& table) {
  table.add({.key = "clients.count",
             .type = OptionType::integer,
             .default_value = "10",
             .help = "number of clients",
             .minimum = 1});
  table.add({.key = "clients.per_round",
             .type = OptionType::integer,
             .default_value = "0",
             .help = "number of clients that work at once; 0 = all",
             .minimum = 0});
  table.add({.key = "clients.fleet",
             .type = OptionType::text,
             .default_value = "",
             .help = "devices of the clients in order, e.g. '2*fast, 4*slow', repeated over "
                     "clients.count; empty = all 'laptop'"});
  for (const Field& field : kFields) {
    table.add({.key = std::string("device.*.") + field.name,
               .type = OptionType::real,
               .default_value = formatted("{}", kLaptop.*field.member),
               .help = field.help,
               .unit = field.unit,
               .minimum = field.minimum,
               .maximum = field.maximum > 0 ? std::optional(field.maximum) : std::nullopt});
  }
  table.add({.key = "device.*.modes",
             .type = OptionType::real_list,
             .default_value = "",
             .help = "factors of a client's speed, one of them drawn every clients.modes_every "
                     "rounds; empty = 1",
             .minimum = 1e-6});
  table.add(
      {.key = "device.*.link_modes",
       .type = OptionType::real_list,
       .default_value = "",
       .help =
           "factors of a client's download and upload rates, drawn as device.NAME.modes; empty = 1",
       .minimum = 1e-6});
  table.add({.key = "clients.modes_every",
             .type = OptionType::integer,
             .default_value = "20",
             .help = "rounds for which clients keep their modes (device.NAME.modes, link_modes)",
             .unit = "rounds",
             .minimum = 1});
  table.add({.key = "device.*.batch",
             .type = OptionType::integer,
             .default_value = "0",
             .help = "samples in a batch on a client; 0 = train.batch",
             .minimum = 0,
             .maximum = 1e6});
}

Modes Fleet::modes_at(std::int64_t client, std::int64_t version) const {
  const DeviceClass& device = this->device(client);
  if (device.modes.empty() && device.link_modes.empty()) return {};
  Stream stream(seed_, kModes, client, version / modes_every_);
  const auto drawn = [&](const std::vector<double>& factors) {
    // Both are always drawn, so that one list does not change the draw from the other.
    const double draw = stream.uniform();
    if (factors.empty()) return 1.0;
    const auto count = static_cast<double>(factors.size());
    return factors[std::min(factors.size() - 1, static_cast<std::size_t>(draw * count))];
  };
  Modes modes;
  modes.speed = drawn(device.modes);
  modes.link = drawn(device.link_modes);
  return modes;
}

DeviceClass Fleet::device_at(std::int64_t client, std::int64_t version) const {
  DeviceClass device = this->device(client);
  const auto [speed, link] = modes_at(client, version);
  for (double DeviceClass::*rate :
       {&DeviceClass::gflops, &DeviceClass::gflops_conv, &DeviceClass::gflops_matmul,
        &DeviceClass::gflops_attention, &DeviceClass::memory_gbps}) {
    device.*rate *= speed;
  }
  device.overhead_us /= speed;
  device.down_mbps *= link;
  device.up_mbps *= link;
  return device;
}

void Fleet::set_link_rates(std::int64_t client, double mbps) {
  DeviceClass own = device(client);
  own.down_mbps = mbps;
  own.up_mbps = mbps;
  class_of_.at(static_cast<std::size_t>(client)) = static_cast<std::int32_t>(classes_.size());
  classes_.push_back(std::move(own));
}

Fleet::Fleet(const Config& config)
    : classes_(device_classes(config)),
      seed_(config.integer("run.seed")),
      modes_every_(config.integer("clients.modes_every")) {
  const std::int64_t clients = config.integer("clients.count");
  const std::int64_t per_round = config.integer("clients.per_round");
  if (per_round > clients) {
    throw InputError(
        formatted("clients.per_round = {} is more than clients.count = {}: change one of them",
                  per_round, clients));
  }
  for (const DeviceClass& device : classes_) {
    if (device.availability > 1) {
      throw InputError(
          formatted("device.{}.availability = {} is above 1", device.name, device.availability));
    }
  }
  const std::string fleet = config.text("clients.fleet");
  const std::vector<std::int32_t> pattern =
      parse_pattern(trimmed(fleet).empty() ? kLaptop.name : fleet, classes_, clients);
  const auto length = static_cast<std::int64_t>(pattern.size());
  if (clients % length != 0) {
    throw InputError(
        formatted("clients.fleet = {} names {} clients, which does not divide clients.count = "
                  "{}: change one of them",
                  fleet, length, clients));
  }
  class_of_.reserve(static_cast<std::size_t>(clients));
  for (std::int64_t client = 0; client < clients; ++client) {
    class_of_.push_back(pattern[static_cast<std::size_t>(client % length)]);
  }
}

}  // namespace espalier
