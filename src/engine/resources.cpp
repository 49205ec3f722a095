#include "espalier/engine/resources.h"

#include <algorithm>
#include <cmath>

#include "espalier/base/error.h"

namespace espalier {

Nanoseconds Fifo::take(Nanoseconds time, std::int64_t amount) {
  if (rate_ == 0) return time;
  const double length = static_cast<double>(amount) * unit_ / rate_;
  const Nanoseconds begin = std::max(time, free_);
  if (!(static_cast<double>(begin) + length <= kHundredYears)) {
    throw InputError(
        formatted("with {} = {} the server would be busy for more than 100 years: check the unit",
                  option_, rate_));
  }
  free_ = begin + std::llround(length);
  return free_;
}

namespace {

constexpr double kNanosecondsPerByteAtOneMbps = 8000;
constexpr double kNanosecondsPerFlopAtOneGflops = 1;

}  // namespace

ServerResources::ServerResources() : down("", 0, 1), up("", 0, 1), processor("", 0, 1) {}

ServerResources::ServerResources(const Config& config)
    : down("server.down_mbps", config.real("server.down_mbps"), kNanosecondsPerByteAtOneMbps),
      up("server.up_mbps", config.real("server.up_mbps"), kNanosecondsPerByteAtOneMbps),
      processor("server.gflops", config.real("server.gflops"), kNanosecondsPerFlopAtOneGflops) {}

void ServerResources::archive(Archive& archive) {
  down.archive(archive, "down");
  up.archive(archive, "up");
  processor.archive(archive, "processor");
}

void declare_resource_options(OptionTable& table) {
  table.add({"server.gflops", OptionType::real, "0",
             "arithmetic rate at which the server processes updates, one after the other; 0 = no "
             "delay",
             "GFLOP/s", 0, 1e12});
  table.add({"server.down_mbps", OptionType::real, "0",
             "rate of the server's outgoing link, which tasks pass one after the other; 0 = no "
             "delay",
             "Mbit/s", 0, 1e12});
  table.add(
      {"server.up_mbps", OptionType::real, "0",
       "rate of the server's incoming link, which updates pass one after the other; 0 = no delay",
       "Mbit/s", 0, 1e12});
}

}  // namespace espalier
