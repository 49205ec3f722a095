// `espalier run`: from an input file to a model and records. Before any message travels, all ranks
// agree that nothing is wrong; after that, a rank that fails ends the whole job.

#include <ATen/Parallel.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <map>
#include <set>

#include "espalier/app/commands.h"
#include "espalier/app/isa.h"
#include "espalier/app/job.h"
#include "espalier/app/options.h"
#include "espalier/app/request.h"
#include "espalier/app/resume.h"
#include "espalier/app/run_directory.h"
#include "espalier/base/hash.h"
#include "espalier/base/log.h"
#include "espalier/base/stop.h"
#include "espalier/comm/mailbox.h"
#include "espalier/data/fingerprint.h"
#include "espalier/device/memory.h"
#include "espalier/method/register.h"
#include "espalier/protocol/rounds/server.h"
#include "espalier/record/checkpoint.h"
#include "espalier/record/outcome.h"
#include "espalier/train/weights.h"

namespace espalier {

using namespace rounds;
namespace {

/// Exit status of a run that was stopped at a checkpoint: start again to go on.
constexpr int kStoppedEarly = 85;

/// Everything that can be wrong with what the user wrote is found here, before MPI starts.
Config read_config(const Request& request) {
  Config config(all_options());
  config.read_file(request.input);
  for (const auto& [key, value] : request.settings) config.set(key, value, "the command line");
  bring_catalogue(config);
  config.set_default("run.name", std::filesystem::path(request.input).stem().string());
  set_model_defaults(config);
  if (!config.given("run.isa")) config.set_default("run.isa", best_isa());
  if (config.text("run.isa") == "auto") config.set("run.isa", best_isa(), "this machine");
  return config;
}

std::string megabytes(std::int64_t bytes) {
  return formatted("{:.2f} MB", static_cast<double>(bytes) * 1e-6);
}

/// How many clients have too little memory for their first task, and what to do about it.
std::string memory_line(const Experiment& e, const std::vector<std::int64_t>& too_small) {
  if (too_small.empty()) {
    return formatted("memory   all {} clients can hold their task", e.fleet->size());
  }
  std::set<std::string> classes;
  for (const std::int64_t client : too_small) classes.insert(e.fleet->device(client).name);
  return formatted(
      "memory   {} of {} clients cannot hold their task ({}): give them more memory_mb, choose "
      "smaller method.widths, or set clients.memory_fit = width",
      too_small.size(), e.fleet->size(), fmt::join(classes, ", "));
}

/// Clients of one kind of device that get the same submodel; the rest is that of the first.
struct CheckLine {
  std::string device;
  std::string rest;
  std::int64_t clients = 0;
};

/// `--check`: what would run, with the memory that each kind of client is expected to need.
void print_check(const Experiment& e, const RuleNames& names, const ServerRules& rules) {
  log_note(formatted("method   {} (submodel {}, window {}, merge {}, objective {})", names.method,
                     names.submodel, names.window, names.merge, names.objective));
  const auto full = Submodel::full(*e.model.layout);
  const std::int64_t values =
      e.plans->buffer_layout(full, Packing::aligned)->count(Kind::trainable);
  log_note(formatted("model    {}, {} parameters", e.model.name, values));
  log_note(formatted("data     {}, {} training and {} test samples", e.data.name,
                     e.data.train ? e.data.train->size() : 0,
                     e.data.test ? e.data.test->size() : 0));
  for (const std::string& file : e.data.files) log_note("         " + file);
  log_note(formatted("clients  {}", e.fleet->size()));
  log_note(formatted("         {:<14} {:>8} {:>6} {:>12} {:>12} {:>12}", "device", "clients",
                     "share", "parameters", "memory", "cap"));
  std::map<std::pair<std::string, std::uint64_t>, std::size_t> line_of;  // device and submodel
  std::vector<CheckLine> lines;
  std::vector<std::int64_t> too_small;  // clients
  std::int64_t payloads = 0;
  std::int64_t states = 0;
  const bool keeps = e.train.optimizer_state == OptimizerState::keep;
  for (std::int64_t client = 0; client < e.fleet->size(); ++client) {
    const SendMoment moment{client, 0, 0};
    const Assignment assigned = rules.submodel->choose(e, moment);
    const DeviceClass& device = e.fleet->device(client);
    const Peaks bounds = assignment_peaks(e, rules, assigned, client);
    const TrainingCost& cost = bounds.training;
    payloads += cost.message_bytes;
    const std::int64_t cap = memory_bytes(device);
    const bool fits = cap == 0 || bounds.largest() <= cap;
    if (!fits) too_small.push_back(client);
    if (keeps) states += Optimizer::copies(e.train) * cost.message_bytes;
    const auto [line, is_new] =
        line_of.try_emplace({device.name, assigned.submodel.hash()}, lines.size());
    if (is_new) {
      lines.push_back(
          {device.name,
           formatted("{:>6.3g} {:>12} {:>12} {:>12}{}{}", assigned.share, cost.parameters,
                     megabytes(cost.peak_bytes), cap > 0 ? megabytes(cap) : "-",
                     bounds.search > 0
                         ? formatted("  {} while it searches", megabytes(bounds.search))
                         : "",
                     fits ? "" : "  too little memory")});
    }
    ++lines[line->second].clients;
  }
  for (const CheckLine& line : lines) {
    log_note(formatted("         {:<14} {:>8} {}", line.device, line.clients, line.rest));
  }
  // The model, its evaluated copy, and each client's payload, update and state: that before the
  // task, that after it, and the one to send next.
  log_note(formatted("server   {} at most, beside data and libraries",
                     megabytes(8 * values + 2 * payloads + 3 * states)));
  log_note(memory_line(e, too_small));
}

/// Whether a person looks on. mpirun gives every program a terminal of its own, so below it
/// tools/mpirun.sh tells.
bool on_terminal() {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr)
    return std::getenv("ESPALIER_TERMINAL") != nullptr;
  return isatty(STDOUT_FILENO) != 0;
}

/// "top-1 0.9876", or "perplexity 5.432" of a language model.
std::string quality(const Evaluation& e) {
  return std::isnan(e.perplexity) ? formatted("top-1 {:.4f}", e.top1)
                                  : formatted("perplexity {:.4g}", e.perplexity);
}

/// Progress for a person: one live line on a terminal; plain lines, a second apart, elsewhere.
class Progress {
 public:
  Progress(std::int64_t rounds, Verbosity verbosity)
      : rounds_(rounds), live_(on_terminal() && verbosity != Verbosity::quiet) {}

  void round(const RoundReport& report) {
    const std::string line =
        formatted("round {:>5}/{}   loss {:.4f}   virtual {:>9.1f} s   {:>6.1f} s{}", report.round,
                  rounds_, report.train_loss, seconds(report.time), elapsed(),
                  quality_.empty() ? "" : formatted("   (version {}: {})", evaluated_, quality_));
    if (live_) {
      std::printf("\r\033[K%s", line.c_str());
      std::fflush(stdout);
    } else if (elapsed() - last_ >= 1 || report.round == rounds_) {
      last_ = elapsed();
      log_note(line);
    }
  }
  void evaluation(const Evaluation& e) {
    quality_ = quality(e);
    evaluated_ = e.version;
    if (live_) std::printf("\r\033[K");
    log_note(formatted("version {:>3}       loss {:.4f}   virtual {:>9.1f} s   {:>6.1f} s   {}",
                       e.version, e.loss, seconds(e.time), elapsed(), quality_));
  }
  void failure(const std::string& text) {
    if (live_) std::printf("\r\033[K");
    std::fflush(stdout);  // the warning goes to stderr
    log_warning(text);
  }
  double elapsed() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::int64_t rounds_;
  bool live_;
  std::string quality_;  // of the last evaluation, that of an earlier version than the round's
  std::int64_t evaluated_ = 0;
  double last_ = -1;
};

void record_clients(RunFile& records, const Experiment& e) {
  for (std::int64_t client = 0; client < e.fleet->size(); ++client) {
    const DeviceClass& device = e.fleet->device(client);
    Row row(clients_schema());
    row.set("client", client)
        .set("device", device.name)
        .set("memory_bytes", memory_bytes(device))
        .set("gflops", device.gflops)
        .set("down_mbps", device.down_mbps)
        .set("up_mbps", device.up_mbps)
        .set("latency_ms", device.latency_ms)
        .set("samples", e.samples_of(client));
    records.append(row);
  }
}

using Moment = std::chrono::steady_clock::time_point;

/// The sooner of --wall since the program `begun` and the end of the Slurm job, where it tells its
/// own; of what is left of that a part is kept for saving.
std::optional<Moment> stop_time(const Request& request, Moment begun) {
  constexpr std::int64_t kMostForSaving = 60;
  std::optional<Moment> stop;
  if (request.wall) stop = begun + *request.wall;
  const char* end = std::getenv("SLURM_JOB_END_TIME");  // seconds since 1970
  if (end == nullptr) return stop;
  const std::int64_t left = parse_integer(end).value_or(0) - std::time(nullptr);
  if (left <= 0) {
    log_warning("SLURM_JOB_END_TIME has passed: it seems to be another job's, and is not heeded");
    return stop;
  }
  const Moment last = std::chrono::steady_clock::now() +
                      std::chrono::seconds(left - std::min(kMostForSaving, left / 10));
  return stop ? std::min(*stop, last) : last;
}

/// The records as they were at a checkpoint: later rows are cut away, whatever state they are in.
RunFile restored_records(CheckpointReader& checkpoint, const RunDirectory& directory,
                         const std::string& resolved) {
  Bytes image;
  checkpoint.read([&](Archive& archive) {
    archive.open("wall");
    archive.value("records", image);
    archive.close();
  });
  directory.restore_run_file(image);
  return RunFile::reopen(directory.run_file(), resolved);
}

/// " out_of_memory=12 rejected=3" of a run in which tasks failed. Those that the run's end cut off
/// did not.
std::string failures(const std::filesystem::path& run_file) {
  std::string text;
  for (const auto& [outcome, count] : count_outcomes(run_file)) {
    const bool failed =
        outcome != name_of(Outcome::merged) && outcome != name_of(Outcome::unfinished);
    if (failed) text += formatted(" {}={}", outcome, count);
  }
  return text;
}

std::string closing_line(const RunSummary& s, double wall, const RunDirectory& directory) {
  const Evaluation last = s.last.value_or(Evaluation{});
  const std::string quality = std::isnan(last.perplexity)
                                  ? formatted("top1={:.4f}", last.top1)
                                  : formatted("perplexity={:.4f}", last.perplexity);
  return formatted(
      "done: rounds={} version={} {} loss={:.4f} virtual_s={:.3f} wall_s={:.1f} up_mb={:.3f} "
      "down_mb={:.3f}{} run={}",
      s.rounds, s.version, quality, last.loss, seconds(s.time), wall,
      static_cast<double>(s.bytes_up) * 1e-6, static_cast<double>(s.bytes_down) * 1e-6,
      failures(directory.run_file()), directory.path().string());
}

/// What rank 0 serves with. All of it is built before anything is written, because what is wrong
/// with the input shows here.
struct Serving {
  ServerRules rules;
  ServerSettings settings;
  KeptCheckpoints kept;
  Parameters model;        ///< global, before round 0
  std::string data_print;  ///< fingerprint of the data, for checkpoints
};

Serving build_serving(const RuleNames& names, const Config& config, const Experiment& experiment,
                      const std::string& data_print) {
  Serving serving{build_rules(catalogue(), names, config, experiment),
                  server_settings(config, experiment), KeptCheckpoints(config),
                  first_model(config, experiment), data_print};
  refuse_endless_tasks(experiment, *serving.rules.objective, serving.settings);
  return serving;
}

/// Once everything is built, what was not read will not be. `asked`: what this request gives and
/// the configuration that it was read into has not been asked for; on going on `config` is another.
void warn_of_unread(const Config& config, const std::vector<std::string>& asked) {
  const std::vector<std::string> unread = config.unread();
  for (const std::string& key : asked) {
    if (std::ranges::find(unread, key) == unread.end()) continue;
    log_warning(formatted("{} was given, but nothing reads it in this run", key));
  }
}

/// Rank 0: serve until the rounds are done or a stop is asked for, then leave model and records.
/// Returns the exit status.
int serve(const Experiment& experiment, const Config& config, const RuleNames& names,
          const JobKinds& kinds, const Request& request, RunDirectory& directory,
          const MpiEnvironment& mpi, Serving serving, std::unique_ptr<CheckpointReader> checkpoint,
          const RealTime* real_time) {
  const std::string resolved = config.resolved();
  Mailbox mailbox(mpi);
  std::unique_ptr<Worker> local;
  if (mpi.size() == 1) {
    local = std::make_unique<Worker>(kinds, mailbox, real_time);
  }
  Pool pool(mailbox, mpi.size(), local.get(), real_time != nullptr);
  RunFile records = checkpoint ? restored_records(*checkpoint, directory, resolved)
                               : RunFile(directory.run_file(), resolved);
  if (!checkpoint) record_clients(records, experiment);

  RoundsServer server(experiment, std::move(serving.settings), std::move(serving.rules), pool,
                      records, std::move(serving.model), real_time);
  if (checkpoint) {
    checkpoint->read([&](Archive& archive) { server.archive(archive); });
    checkpoint.reset();
    log_note(
        formatted("going on from version {} of {}", server.version(), directory.path().string()));
  }
  Progress progress(experiment.rounds, request.verbosity);
  server.on_round = [&](const RoundReport& report) { progress.round(report); };
  server.on_evaluation = [&](const Evaluation& evaluation) { progress.evaluation(evaluation); };
  server.on_failure = [&](const std::string& text) { progress.failure(text); };
  const auto tell_loss = [](std::int64_t version) {
    set_loss(formatted("what came after version {} is lost", version));
  };
  tell_loss(server.version());
  CheckpointWriter writer;
  server.on_checkpoint = [&](std::int64_t version) {
    writer.finish();
    directory.prune_checkpoints(serving.kept);
    writer.write(directory.checkpoint(version),
                 make_checkpoint(resolved,
                                 [&](Archive& archive) {
                                   archive.value(kDataPrint, serving.data_print);
                                   server.archive(archive);
                                 }),
                 [=] { tell_loss(version); });
  };
  const RunSummary summary = server.run();
  pool.stop();
  records.close();
  writer.finish();
  directory.prune_checkpoints(serving.kept);
  if (summary.stopped) {
    log_result(formatted("stopped at version {} of {} ({}); start again to go on", summary.version,
                         experiment.rounds, *summary.stopped));
    close_log();
    return kStoppedEarly;
  }
  const std::string line = closing_line(summary, server.elapsed_s(), directory);
  directory.done(line);
  log_result(line);
  close_log();
  return 0;
}

}  // namespace

int run_command(int* argc, char*** argv, const std::vector<std::string>& arguments) {
  // What each rank finds wrong is gathered, and told once, by rank 0.
  const auto begun = std::chrono::steady_clock::now();
  Failure failure;

  // 1. The input file.
  Request request;
  std::optional<Config> config;
  RuleNames names;
  attempt(failure, [&] {
    request = parse_request(arguments);
    set_verbosity(request.verbosity);
    config.emplace(read_config(request));
    names = choose_rules(catalogue(), *config);
  });

  // 2. MPI, and one configuration on all ranks.
  const MpiEnvironment mpi(argc, argv);
  set_message_rank(mpi.rank());
  if (const int failed = agreed(mpi, failure)) return failed;
  attempt(failure, [&] {
    std::uint64_t own = hash_text(config->resolved());
    std::uint64_t first = own;
    ESPALIER_MPI(MPI_Bcast(&first, 1, MPI_UINT64_T, 0, mpi.communicator()));
    if (own != first) {
      throw InputError(
          formatted("rank {} reads another configuration or has another instruction set ({}) "
                    "than rank 0; give "
                    "all ranks the same input file, and run.isa = avx2",
                    mpi.rank(), config->text("run.isa")));
    }
  });
  if (const int failed = agreed(mpi, failure)) return failed;

  if (request.print_config) {
    if (mpi.rank() == 0) std::fputs(config->resolved().c_str(), stdout);
    return 0;
  }

  // 3. What rank 0 finds in the run's folder: nothing, a run to go on with, or a finished one,
  // which is told again. Then the instruction set, before the first tensor.
  std::filesystem::path path;
  Intent meant;
  attempt(failure, [&] {
    path = RunDirectory::path_for(*config);
    if (mpi.rank() == 0 && !request.check) meant = intent(*config, request, path);
  });
  if (const int failed = agreed(mpi, failure)) return failed;
  meant = shared(mpi, std::move(meant));
  const std::vector<std::string> asked = config->unread();
  if (meant.kind == Intent::Kind::tell) {
    log_result(meant.text);
    return 0;
  }
  attempt(failure, [&] {
    if (meant.kind == Intent::Kind::go_on) {
      config.emplace(all_options());
      config->read_text(meant.text, (path / "config.ini").string());
      names = choose_rules(catalogue(), *config);
    }
    apply_isa(config->text("run.isa"));
    install_counting_allocator();
    at::set_num_threads(static_cast<int>(config->integer("run.threads")));
  });
  if (const int failed = agreed(mpi, failure)) return failed;

  // 4. The experiment, equal on all ranks.
  std::optional<Experiment> experiment;
  std::string data_print;
  std::optional<Serving> serving;  // rank 0's alone
  attempt(failure, [&] {
    experiment.emplace(build_experiment(*config, request.check));
    if (experiment->data.train) data_print = fingerprint(experiment->data);
    if (mpi.rank() == 0) serving.emplace(build_serving(names, *config, *experiment, data_print));
  });
  if (const int failed = agreed(mpi, failure)) return failed;
  attempt(failure, [&] {
    const std::string first = broadcast_text(mpi, data_print);
    refuse_other_data(experiment->data, first, data_print,
                      formatted("of rank 0 on rank {}", mpi.rank()),
                      "give all ranks the same files");
    if (!request.check || mpi.rank() != 0) return;
    if (experiment->data.train) warn_of_unread(*config, asked);
    print_check(*experiment, names, serving->rules);
  });
  if (const int failed = agreed(mpi, failure)) return failed;
  if (request.check) return 0;

  // 5. The folder. Nothing was written so far, and nothing that the user asks for is refused later.
  std::optional<RunDirectory> directory;
  Newest newest;
  attempt(failure, [&] {
    if (mpi.rank() != 0) return;
    directory.emplace(
        path, request.overwrite ? RunDirectory::Content::remove : RunDirectory::Content::keep);
    newest = newest_checkpoint(*directory, *config);
    if (newest.checkpoint) refuse_other_data(experiment->data, data_print, *newest.checkpoint);
    directory->begin(config->resolved());
    open_log(path / "log.txt");
    warn_of_unread(*config, asked);
    for (const std::string& warning : newest.warnings) log_warning(warning);
  });
  if (const int failed = agreed(mpi, failure)) return failed;

  // 6. Serve and train. From here on a failure ends the job, and a request to stop is heard.
  int status = 0;
  keep_stop_signals(mpi.rank() == 0);
  if (const auto stop = stop_time(request, begun)) set_stop_time(*stop);
  const auto serve_or_train = [&] {
    std::optional<RealTime> real_time;
    if (const auto scale = clock_settings(*config, *experiment->fleet).scale) {
      real_time.emplace(mpi, *scale);
    }
    const RealTime* pace = real_time ? &*real_time : nullptr;
    JobKinds kinds;
    add_evaluation_jobs(kinds, *experiment, evaluation_plan(*config, *experiment));
    add_client_jobs(kinds, *experiment, client_rules(catalogue(), names), *config);
    if (mpi.rank() == 0) {
      status = serve(*experiment, *config, names, kinds, request, *directory, mpi,
                     std::move(*serving), std::move(newest.checkpoint), pace);
    } else {
      Mailbox mailbox(mpi);
      Worker(kinds, mailbox, pace).run();
    }
  };
  attempt(failure, serve_or_train, formatted("rank {}: ", mpi.rank()));
  if (failure.status == 0) return status;
  return fail_job(mpi, failure, [&] { directory.reset(); });
}

}  // namespace espalier
