// `espalier calibrate`: measures the machine it runs on and prints a device class for input files.

#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "espalier/app/calibration.h"
#include "espalier/app/commands.h"
#include "espalier/app/failure.h"
#include "espalier/app/isa.h"
#include "espalier/base/log.h"
#include "espalier/comm/environment.h"
#include "espalier/device/fit.h"
#include "espalier/device/memory.h"
#include "espalier/record/software.h"

namespace espalier {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct CalibrateRequest {
  std::string name = "this-machine";
  bool quick = false;
  bool verbose = false;
};

CalibrateRequest parse(const std::vector<std::string>& arguments) {
  CalibrateRequest request;
  bool named = false;
  for (const std::string& word : arguments) {
    if (word == "--quick") {
      request.quick = true;
    } else if (word == "-v" || word == "--verbose") {
      request.verbose = true;
    } else if (word.starts_with("-")) {
      throw InputError("calibrate has the flags --quick and -v, not '" + word + "'");
    } else if (named) {
      throw InputError(formatted("calibrate takes one name; '{}' or '{}'?", request.name, word));
    } else {
      request.name = word;
      named = true;
    }
  }
  const auto fits = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '-'; };
  if (request.name.empty() || !std::ranges::all_of(request.name, fits)) {
    throw InputError(
        formatted("'{}' is no name for a device: use letters, digits, '-' and '_'", request.name));
  }
  return request;
}

/// The model name from Linux; empty if there is none.
std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name") || line.starts_with("Model")) {
      const auto colon = line.find(": ");
      if (colon != std::string::npos) return line.substr(colon + 2);
    }
  }
  return {};
}

// As in the catalogue, the system has the other quarter.
constexpr double kMemoryFraction = 0.75;

/// MB of the physical memory for each of `ranks` on this host.
double memory_per_rank_mb(int ranks) {
  const double bytes =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  return std::floor(kMemoryFraction * bytes * 1e-6 / ranks);
}

int ranks_on_this_host(const MpiEnvironment& mpi) {
  MPI_Comm host = MPI_COMM_NULL;
  ESPALIER_MPI(MPI_Comm_split_type(mpi.communicator(), MPI_COMM_TYPE_SHARED, mpi.rank(),
                                   MPI_INFO_NULL, &host));
  int ranks = 1;
  ESPALIER_MPI(MPI_Comm_size(host, &ranks));
  ESPALIER_MPI(MPI_Comm_free(&host));
  return ranks;
}

struct Link {
  double down_mbps = 0;  ///< from rank 0 to rank 1
  double up_mbps = 0;
  double latency_ms = 0;
};

/// Lower quartile of the seconds in which rank 0 sends `there` bytes to rank 1 and receives `back`
/// bytes from it. Ranks 0 and 1 call it.
double round_trip(const MpiEnvironment& mpi, int there, int back, int repeats) {
  std::vector<char> first(static_cast<std::size_t>(there));
  std::vector<char> second(static_cast<std::size_t>(back));
  std::vector<double> times;
  constexpr int kTag = 1;
  for (int i = 0; i < repeats; ++i) {
    const auto start = Clock::now();
    if (mpi.rank() == 0) {
      ESPALIER_MPI(MPI_Send(first.data(), there, MPI_CHAR, 1, kTag, mpi.communicator()));
      ESPALIER_MPI(
          MPI_Recv(second.data(), back, MPI_CHAR, 1, kTag, mpi.communicator(), MPI_STATUS_IGNORE));
    } else {
      ESPALIER_MPI(
          MPI_Recv(first.data(), there, MPI_CHAR, 0, kTag, mpi.communicator(), MPI_STATUS_IGNORE));
      ESPALIER_MPI(MPI_Send(second.data(), back, MPI_CHAR, 0, kTag, mpi.communicator()));
    }
    times.push_back(seconds_since(start));
  }
  return lower_quartile(std::move(times));
}

Link measure_link(const MpiEnvironment& mpi) {
  constexpr int kLarge = 8 << 20;
  constexpr int kSmall = 1;
  constexpr int kManyRepeats = 400;
  constexpr int kRepeats = 24;
  const double empty = round_trip(mpi, kSmall, kSmall, kManyRepeats);
  const auto mbps = [&](double loaded) {
    return 8e-6 * (kLarge - kSmall) / std::max(loaded - empty, 1e-9);
  };
  return {mbps(round_trip(mpi, kLarge, kSmall, kRepeats)),
          mbps(round_trip(mpi, kSmall, kLarge, kRepeats)), 1e3 * empty / 2};
}

/// Waits for all ranks without keeping a core busy.
void wait_for_all(const MpiEnvironment& mpi) {
  MPI_Request request = MPI_REQUEST_NULL;
  ESPALIER_MPI(MPI_Ibarrier(mpi.communicator(), &request));
  for (int done = 0; done == 0;) {
    ESPALIER_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
    if (done == 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

/// Rounds to four significant digits, which is finer than the error of a measurement.
double rounded(double value) { return std::strtod(formatted("{:.4g}", value).c_str(), nullptr); }

void print_field(const char* name, double value, const std::string& comment) {
  const std::string field = formatted("{} = {:.{}g}", name, value, value < 1e4 ? 4 : 10);
  std::printf("%-27s # %s\n", field.c_str(), comment.c_str());
}

/// Seconds of the task on a client of the class.
double predicted_seconds(const DeviceClass& device, const MeasuredTask& task) {
  const Steps steps{task.step, task.steps};
  return seconds(compute_time(device, {&steps, 1}));
}

/// Prints one line for each task, as comments of an input file.
void print_tasks(const DeviceClass& device, const std::vector<MeasuredTask>& tasks, bool held_out) {
  std::printf("# %-8s %6s %6s %7s %11s %11s %8s\n", "family", "width", "batch", "MFLOP",
              "predicted s", "measured s", "error");
  for (const MeasuredTask& task : tasks) {
    if (task.combination.held_out != held_out) continue;
    const double predicted = predicted_seconds(device, task);
    const double megaflops = 1e-6 * static_cast<double>(task.steps * task.step.step_flops);
    std::printf("# %-8s %6g %6lld %7.0f %11.4f %11.4f %+7.1f%%\n", task.combination.family.c_str(),
                task.combination.width, static_cast<long long>(task.combination.batch), megaflops,
                predicted, task.seconds, 100 * (predicted / task.seconds - 1));
  }
}

DeviceClass fitted_class(const std::string& name, const std::vector<MeasuredTask>& tasks) {
  std::vector<MeasuredStep> steps;
  for (const MeasuredTask& task : tasks) {
    if (task.combination.held_out) continue;
    steps.push_back({task.step, task.seconds / static_cast<double>(task.steps)});
  }
  DeviceClass device = fit_rates(steps);
  device.name = name;
  for (double DeviceClass::*field :
       {&DeviceClass::gflops, &DeviceClass::gflops_conv, &DeviceClass::gflops_matmul,
        &DeviceClass::gflops_attention, &DeviceClass::memory_gbps, &DeviceClass::overhead_us}) {
    device.*field = rounded(device.*field);
  }
  return device;
}

void print_section(const DeviceClass& device, const std::vector<MeasuredTask>& tasks, int ranks,
                   bool verbose) {
  std::vector<double> predicted, measured;
  for (const MeasuredTask& task : tasks) {
    if (!task.combination.held_out) continue;
    predicted.push_back(predicted_seconds(device, task));
    measured.push_back(task.seconds);
  }
  const Agreement fit = agreement(predicted, measured);
  const std::string host = processor();
  std::printf("[device.%s]\n# %s%sone thread, %s; espalier %s (%s)\n", device.name.c_str(),
              host.c_str(), host.empty() ? "" : ", ", best_isa().c_str(),
              software_version().c_str(), software_git_sha().c_str());
  std::printf("# %zu tasks not used for fitting: median error %.1f %%, rank correlation %.3f\n",
              measured.size(), 100 * fit.median_error, fit.rank_correlation);
  print_field("memory_mb", device.memory_mb,
              formatted("three quarters of the memory, among {} rank{} on this host", ranks,
                        ranks == 1 ? "" : "s"));
  print_field("gflops", device.gflops, "norms, activations, pooling, sums");
  print_field("gflops_conv", device.gflops_conv, "convolutions");
  print_field("gflops_matmul", device.gflops_matmul, "matrix products");
  print_field("gflops_attention", device.gflops_attention, "scores and weighted values");
  print_field("memory_gbps", device.memory_gbps, "memory bandwidth for a block's tensors");
  print_field("overhead_us", device.overhead_us, "of each block in each step");
  if (device.down_mbps > 0) {
    print_field("down_mbps", device.down_mbps, "from rank 0 to rank 1");
    print_field("up_mbps", device.up_mbps, "from rank 1 to rank 0");
    print_field("latency_ms", device.latency_ms, "half of a round trip of one byte");
  } else {
    std::printf("# the link has the rates of 'laptop'; start two ranks to measure it\n");
  }
  if (!verbose) return;
  std::printf("#\n# tasks not used for fitting\n");
  print_tasks(device, tasks, true);
  std::printf("#\n# tasks used for fitting\n");
  print_tasks(device, tasks, false);
}

}  // namespace

int calibrate_command(int* argc, char*** argv, const std::vector<std::string>& arguments) {
  CalibrateRequest request;
  const Failure early = attempt([&] {
    request = parse(arguments);
    apply_isa(best_isa());
    install_counting_allocator();
    at::set_num_threads(1);
  });
  const MpiEnvironment mpi(argc, argv);
  try {
    agree(mpi, early);
  } catch (const AgreedFailure& agreed) {
    return agreed.status;
  }
  const auto measure = [&] {
    const int ranks = ranks_on_this_host(mpi);
    Link link;
    if (mpi.size() > 1 && mpi.rank() < 2) link = measure_link(mpi);
    if (mpi.rank() == 0) {
      const std::vector<Combination> combinations = calibration_combinations(request.quick);
      std::fprintf(stderr, "training %zu combinations of family, width and batch%s\n",
                   combinations.size(), request.quick ? "" : ", in about a minute");
      const std::vector<MeasuredTask> tasks = measure_tasks(combinations, request.quick);
      DeviceClass device = fitted_class(request.name, tasks);
      device.memory_mb = memory_per_rank_mb(ranks);
      device.down_mbps = rounded(link.down_mbps);
      device.up_mbps = rounded(link.up_mbps);
      device.latency_ms = rounded(link.latency_ms);
      print_section(device, tasks, ranks, request.verbose);
    }
    wait_for_all(mpi);
  };
  const Failure failure = attempt(measure, formatted("rank {}: ", mpi.rank()));
  return failure.status == 0 ? 0 : fail_job(mpi, failure);
}

}  // namespace espalier
