#pragma once
// A protocol defines how server and clients communicate: round by round, batch by batch on a model
// cut in two, or with clients that never wait. The engine runs any protocol: the protocol declares
// and checks its options, registers the jobs of its clients, and runs the conversation on rank 0.
// method/register.cpp lists all protocols, and nothing else in the program names one.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "espalier/base/archive.h"
#include "espalier/config/config.h"
#include "espalier/engine/job.h"
#include "espalier/engine/resident.h"
#include "espalier/engine/run.h"
#include "espalier/record/table.h"
#include "espalier/train/experiment.h"

namespace espalier {

/// The part of a protocol that runs on rank 0. Between two calls its state is consistent: it can be
/// saved, and restored into another process that resumes the run.
class Conversation {
 public:
  /// Progress in emulated time and in versions of the global model.
  struct Progress {
    std::int64_t version = 0;
    Nanoseconds made = 0;  ///< when that version was made
    Nanoseconds now = 0;
  };

  virtual ~Conversation() = default;
  /// Sends the first jobs or, after a restore, those that were outstanding at the checkpoint.
  virtual void begin() = 0;
  /// Waits for one event and handles it. May throw Pool::Interrupted while it waits, with its state
  /// consistent.
  virtual void advance() = 0;
  virtual Progress progress() const = 0;
  /// Whether nothing is left to do, even if the run has not reached a stop of the input.
  virtual bool is_finished() const { return false; }
  /// The global model of the present version, aligned; null if the protocol has none.
  virtual Parameters* model() { return nullptr; }
  /// After the last event of a run that was not interrupted: records outstanding jobs.
  virtual void end() {}
  /// For the closing line: "up_mb=1.234 down_mb=1.234".
  virtual std::string summary() const = 0;
  /// Saves everything but the model, evaluations and records, which the run saves.
  virtual void archive(Archive& archive) = 0;
  /// Host times and ranks: they may differ between equal runs.
  virtual void archive_wall(Archive&) {}
};

/// The run of rank 0, built and checked before anything is written.
class Preparation {
 public:
  virtual ~Preparation() = default;
  /// `--check`: prints a description of the run and the memory that it needs.
  virtual void print_check() const = 0;
  /// Call once.
  virtual std::unique_ptr<Conversation> converse(Run& run) = 0;
};

/// Named things of one kind, for `espalier list` and `espalier explain`.
struct Listing {
  struct Item {
    std::string name, help;
    std::string details{};  ///< further lines
  };
  std::string kind;   ///< "method", or the option that chooses an item: "method.merge"
  std::string title;  ///< "merge rules (method.merge)"
  std::vector<Item> items;
};

struct Protocol {
  std::string name, help;
  std::function<void(OptionTable&)> declare{};
  std::vector<const TableSchema*> tables{};  ///< of its run files
  /// Its methods first, then the rules of which methods consist.
  std::function<std::vector<Listing>()> list{};
  /// Sets the defaults of the method. InputError if a chosen rule does not exist or does not work
  /// with another. May be called again on the same configuration.
  std::function<void(Config&)> choose{};
  /// On every rank, once the experiment is built: sets the parts of it that follow from the sizes
  /// of the protocol's messages, such as links. InputError if it cannot. May be empty.
  std::function<void(const Config&, Experiment&)> complete{};
  /// On rank 0. InputError and DataError for errors of the input. Configuration and experiment must
  /// outlive the result.
  std::function<std::unique_ptr<Preparation>(const Config&, const Experiment&)> prepare{};
  /// On every rank with a worker. All arguments must outlive the kinds of jobs.
  std::function<void(JobKinds&, Residents&, const Config&, const Experiment&)> add_jobs{};
};

}  // namespace espalier
