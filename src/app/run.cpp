// `espalier run`: from an input file to a model and records. Before the first message between
// ranks, all ranks agree on any failure; after that, a rank that fails ends the whole job.

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "espalier/app/commands.h"
#include "espalier/app/failure.h"
#include "espalier/app/isa.h"
#include "espalier/app/options.h"
#include "espalier/app/request.h"
#include "espalier/app/resume.h"
#include "espalier/app/run_directory.h"
#include "espalier/app/serve.h"
#include "espalier/base/hash.h"
#include "espalier/base/log.h"
#include "espalier/base/stop.h"
#include "espalier/comm/mailbox.h"
#include "espalier/data/fingerprint.h"
#include "espalier/data/label_counts.h"
#include "espalier/device/memory.h"
#include "espalier/engine/clock.h"
#include "espalier/model/model.h"

namespace espalier {
namespace {

/// Reads the input file and the command line, and reports their errors before MPI starts.
Config read_config(const Request& request, const Protocols& protocols) {
  Config config(all_options(protocols));
  config.read_file(request.input);
  for (const auto& [key, value] : request.settings) config.set(key, value, "the command line");
  bring_catalogue(config);
  config.set_default("run.name", std::filesystem::path(request.input).stem().string());
  set_model_defaults(config);
  if (!config.given("run.isa")) config.set_default("run.isa", best_isa());
  if (config.text("run.isa") == "auto") config.set("run.isa", best_isa(), "this machine");
  protocol_of(protocols, config).choose(config);
  return config;
}

void refuse_other_config(const MpiEnvironment& mpi, const Config& config) {
  const std::uint64_t own = hash_text(config.resolved());
  std::uint64_t first = own;
  ESPALIER_MPI(MPI_Bcast(&first, 1, MPI_UINT64_T, 0, mpi.communicator()));
  if (own == first) return;
  throw InputError(formatted(
      "rank {} has another configuration or another instruction set ({}) than rank 0; give all "
      "ranks the same input file, and run.isa = avx2",
      mpi.rank(), config.text("run.isa")));
}

/// Warns of given options that nothing reads; call it once everything is built. `candidates`: the
/// given options that nothing had read before; a resumed run has another `config`.
void warn_of_unread(const Config& config, const std::vector<std::string>& candidates) {
  const std::vector<std::string> unread = config.unread();
  for (const std::string& key : candidates) {
    if (std::ranges::find(unread, key) == unread.end()) continue;
    log_warning(formatted("{} was given, but nothing reads it in this run", key));
  }
}

/// The run, once the ranks agree on the configuration.
int run_on_all_ranks(const MpiEnvironment& mpi, const Protocols& protocols, const Request& request,
                     Config config, std::chrono::steady_clock::time_point begun) {
  // 3. The run's folder on rank 0: it has no run, a run to resume, or a finished run, whose result
  // is printed again. Then the instruction set, before the first tensor.
  std::filesystem::path path;
  Intent action;
  on_all_ranks(mpi, [&] {
    path = RunDirectory::path_for(config);
    if (mpi.rank() == 0 && !request.check) action = intent(config, request, path);
  });
  action = broadcast(mpi, std::move(action));
  const std::vector<std::string> unread = config.unread();
  if (action.kind == Intent::Kind::report) {
    log_result(action.text);
    return 0;
  }
  on_all_ranks(mpi, [&] {
    if (action.kind == Intent::Kind::resume) {
      config = Config(all_options(protocols));
      config.read_text(action.text, (path / "config.ini").string());
      protocol_of(protocols, config).choose(config);
    }
    apply_isa(config.text("run.isa"));
    install_counting_allocator();
    at::set_num_threads(static_cast<int>(config.integer("run.threads")));
  });
  const Protocol& protocol = protocol_of(protocols, config);

  // 4. The experiment, equal on all ranks.
  std::optional<Experiment> experiment;
  std::string data_print;
  std::optional<Service> service;  // only on rank 0
  on_all_ranks(mpi, [&] {
    experiment.emplace(build_experiment(config, request.check));
    if (protocol.complete) protocol.complete(config, *experiment);
    if (experiment->data.train) data_print = fingerprint(experiment->data);
    if (mpi.rank() == 0) service.emplace(build_service(protocol, config, *experiment));
  });
  on_all_ranks(mpi, [&] {
    const std::string first = broadcast_text(mpi, data_print);
    refuse_other_data(experiment->data, first, data_print,
                      formatted("of rank 0 on rank {}", mpi.rank()),
                      "give all ranks the same files");
    if (!request.check || mpi.rank() != 0) return;
    if (experiment->data.train) warn_of_unread(config, unread);
    service->preparation->print_check();
    if (request.verbosity != Verbosity::verbose || !experiment->partition) return;
    for (const std::string& line : label_table(experiment->data, *experiment->partition)) {
      log_note(line);
    }
  });
  if (request.check) return 0;

  // 5. Lock the folder. Nothing was written so far, and no setting is refused later.
  std::optional<RunDirectory> directory;
  Newest newest;
  on_all_ranks(mpi, [&] {
    if (mpi.rank() != 0) return;
    directory.emplace(
        path, request.overwrite ? RunDirectory::Content::remove : RunDirectory::Content::keep);
    newest = newest_checkpoint(*directory, config);
    if (newest.checkpoint) refuse_other_data(experiment->data, data_print, *newest.checkpoint);
    directory->begin(config.resolved());
    open_log(path / "log.txt");
    warn_of_unread(config, unread);
    for (const std::string& warning : newest.warnings) log_warning(warning);
  });

  // 6. Rank 0 serves, the others work. From here on a failure ends the job, and a request to stop
  // ends the run at a checkpoint.
  int status = 0;
  keep_stop_signals(mpi.rank() == 0);
  if (const auto stop = stop_time(request, begun)) set_stop_time(*stop);
  const auto serve_or_work = [&] {
    std::optional<RealTime> clock;
    if (const auto scale = clock_settings(config, *experiment->fleet).scale) {
      clock.emplace(mpi, *scale);
    }
    const RealTime* real_time = clock ? &*clock : nullptr;
    JobKinds kinds;
    Residents residents(kinds);
    add_evaluation_jobs(kinds, *experiment, evaluation_plan(config, *experiment));
    protocol.add_jobs(kinds, residents, config, *experiment);
    if (mpi.rank() == 0) {
      status = serve({protocol, config, *experiment, kinds, real_time, data_print},
                     std::move(*service), request, *directory, mpi, std::move(newest.checkpoint));
    } else {
      distribute_frozen(mpi, *experiment);
      Mailbox mailbox(mpi);
      Worker(kinds, mailbox, real_time).run();
    }
  };
  const Failure failure = attempt(serve_or_work, formatted("rank {}: ", mpi.rank()));
  if (failure.status == 0) return status;
  return fail_job(mpi, failure, [&] { directory.reset(); });
}

}  // namespace

int run_command(int* argc, char*** argv, const Protocols& protocols,
                const std::vector<std::string>& arguments) {
  // 1. The input file.
  end_at_stop_signals();
  const auto begun = std::chrono::steady_clock::now();
  Request request;
  std::optional<Config> config;
  const Failure failure = attempt([&] {
    request = parse_request(arguments);
    set_verbosity(request.verbosity);
    config.emplace(read_config(request, protocols));
  });

  // 2. MPI, and one configuration on all ranks.
  const MpiEnvironment mpi(argc, argv);
  set_message_rank(mpi.rank());
  try {
    agree(mpi, failure);
    on_all_ranks(mpi, [&] { refuse_other_config(mpi, *config); });
    if (request.print_config) {
      if (mpi.rank() == 0) std::fputs(config->resolved().c_str(), stdout);
      return 0;
    }
    return run_on_all_ranks(mpi, protocols, request, std::move(*config), begun);
  } catch (const AgreedFailure& agreed) {
    return agreed.status;
  }
}

}  // namespace espalier
