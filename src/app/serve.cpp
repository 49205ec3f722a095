#include "espalier/app/serve.h"

#include <algorithm>
#include <cmath>

#include "espalier/app/progress.h"
#include "espalier/app/resume.h"
#include "espalier/base/log.h"
#include "espalier/base/stop.h"
#include "espalier/comm/mailbox.h"
#include "espalier/engine/driver.h"
#include "espalier/engine/tables.h"
#include "espalier/record/outcome.h"
#include "espalier/record/run_file.h"

namespace espalier {
namespace {

/// The records as they were at a checkpoint, without later rows, which may be incomplete.
RunFile restored_records(CheckpointReader& checkpoint, const RunDirectory& directory,
                         const std::string& resolved,
                         const std::vector<const TableSchema*>& tables) {
  if (const auto mark = records_mark(checkpoint))
    return RunFile::rebuild(directory.run_file(), resolved, tables, directory.journal(), *mark);
  Bytes image;  // of an older release
  checkpoint.read([&](Archive& archive) {
    archive.open("wall");
    archive.value("records", image);
    archive.close();
  });
  directory.restore_run_file(image);
  return RunFile::reopen(directory.run_file(), resolved, tables, directory.journal());
}

/// " out_of_memory=12 rejected=3": counts of failed tasks. Tasks that were outstanding at the end
/// of the run have not failed.
std::string failures(const std::filesystem::path& run_file) {
  std::string text;
  for (const auto& [outcome, count] : count_outcomes(run_file)) {
    const bool failed =
        outcome != name_of(Outcome::merged) && outcome != name_of(Outcome::unfinished);
    if (failed) text += formatted(" {}={}", outcome, count);
  }
  return text;
}

std::string closing_line(const Run& run, const Conversation& conversation,
                         const RunDirectory& directory) {
  const Evaluation last = run.last_evaluation().value_or(Evaluation{});
  const std::string quality = std::isnan(last.perplexity)
                                  ? formatted("top1={:.4f}", last.top1)
                                  : formatted("perplexity={:.4f}", last.perplexity);
  const Conversation::Progress at = conversation.progress();
  return formatted(
      "done: rounds={} version={} {} loss={:.4f} virtual_s={:.3f} wall_s={:.1f} {}{} "
      "run={}",
      at.version, at.version, quality, last.loss, seconds(at.now), run.elapsed_s(),
      conversation.summary(), failures(directory.run_file()), directory.path().string());
}

void warn_of_loss(std::int64_t version) {
  set_loss(formatted("all results after version {} are lost", version));
}

}  // namespace

Service build_service(const Protocol& protocol, Config& config, const Experiment& experiment,
                      bool resumes) {
  const std::string init = config.text("model.init");
  std::error_code ignored;
  const bool lacks_init = resumes && !init.empty() && !std::filesystem::exists(init, ignored);
  if (lacks_init) config.set("model.init", "", "the resume");
  Service service{protocol.prepare(config, experiment), run_settings(config, experiment),
                  KeptCheckpoints(config), lacks_init};
  if (lacks_init) config.set("model.init", init, "config.ini");
  return service;
}

void distribute_frozen(const MpiEnvironment& mpi, const Experiment& experiment) {
  if (!experiment.frozen) return;
  FrozenValues& frozen = *experiment.frozen;
  if (mpi.rank() != 0) frozen.allocate_own(*experiment.plans, *experiment.model.layout);
  const at::Tensor buffer = frozen.buffer();
  float* const values = buffer.data_ptr<float>();
  constexpr std::int64_t kMost = 1 << 28;  // MPI counts in int
  for (std::int64_t begin = 0; begin < buffer.numel(); begin += kMost) {
    const auto count = static_cast<int>(std::min(kMost, buffer.numel() - begin));
    ESPALIER_MPI(MPI_Bcast(values + begin, count, MPI_FLOAT, 0, mpi.communicator()));
  }
}

int serve(const Surroundings& s, Service service, const Request& request, RunDirectory& directory,
          const MpiEnvironment& mpi, std::unique_ptr<CheckpointReader> checkpoint) {
  // 1. The ranks with a worker (this one, if it is the only one), and the records.
  const std::string resolved = s.config.resolved();
  const bool is_restored = checkpoint != nullptr;
  Mailbox mailbox(mpi);
  std::unique_ptr<Worker> local;
  if (mpi.size() == 1) local = std::make_unique<Worker>(s.kinds, mailbox, s.real_time);
  Pool pool(mailbox, mpi.size(), local.get(), s.real_time != nullptr);
  const std::vector<const TableSchema*> tables = with_engine_tables(s.protocol.tables);
  RunFile records = is_restored
                        ? restored_records(*checkpoint, directory, resolved, tables)
                        : RunFile(directory.run_file(), resolved, tables, directory.journal());
  if (!is_restored) record_clients(records, s.experiment);

  // 2. The conversation, at its beginning or at a checkpoint.
  Progress progress(s.experiment.rounds, s.experiment.data.shape.predicts_tokens(),
                    request.verbosity);
  CheckpointWriter writer;
  const auto save = [&](std::int64_t version, const std::function<void(Archive&)>& content) {
    writer.finish();
    if (directory.restore_checkpoint_folder()) {
      progress.warning(
          formatted("the folder checkpoints of {} was removed during the run, and its checkpoints "
                    "are lost; it is made again for version {}",
                    directory.path().string(), version));
    }
    directory.prune_checkpoints(service.kept);
    const auto with_print = [&](Archive& archive) {
      std::string print = s.data_print;
      archive.value(kDataPrint, print);
      content(archive);
    };
    writer.write(directory.checkpoint(version), resolved, with_print,
                 {.before = [&records] { records.sync_journal(); },
                  .after = [version] { warn_of_loss(version); }});
  };
  Run run(s.experiment, service.settings, pool, records, s.real_time,
          {.on_version = [&](const VersionReport& report) { progress.version(report); },
           .on_evaluation = [&](const Evaluation& evaluation) { progress.evaluation(evaluation); },
           .on_warning = [&](const std::string& text) { progress.warning(text); },
           .save = save});
  const std::unique_ptr<Conversation> conversation = service.preparation->converse(run);
  if (s.experiment.frozen) {
    ESPALIER_CHECK(conversation->model() != nullptr, "frozen entries of no model");
    s.experiment.frozen->share(*conversation->model());
  }
  if (is_restored) {
    checkpoint->read([&](Archive& archive) { run.archive(archive, *conversation); });
    checkpoint.reset();
    log_note(formatted("resuming from version {} of {}", conversation->progress().version,
                       directory.path().string()));
  }
  distribute_frozen(mpi, s.experiment);
  warn_of_loss(conversation->progress().version);

  // 3. Handle events until the run ends or is stopped; then write everything to the disk.
  const std::optional<std::string> stop = drive(run, *conversation, is_restored);
  progress.erase();
  pool.stop();
  records.close();
  writer.finish();
  directory.prune_checkpoints(service.kept);
  if (stop) {
    log_result(formatted("stopped at version {} of {} ({}); start again to resume",
                         conversation->progress().version, s.experiment.rounds, *stop));
  } else {
    const std::string line = closing_line(run, *conversation, directory);
    directory.done(line);
    log_result(line);
  }
  close_log();
  return stop ? kStoppedEarly : 0;
}

}  // namespace espalier
