#pragma once
// A protocol is how server and clients converse: round by round, by split training, as regions that
// never wait. The engine runs any of them: a protocol declares its options, checks them, says which
// jobs its clients can do, and holds the conversation on rank 0. method/register.cpp lists them
// all, and nothing else in the program names one.

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

/// What a protocol does on rank 0. Between two calls its state is whole: it can be saved, and
/// restored into another process that goes on from there.
class Conversation {
 public:
  /// How far it is, in emulated time and in versions of the global model.
  struct Progress {
    std::int64_t version = 0;
    Nanoseconds made = 0;  ///< when that version was made
    Nanoseconds now = 0;
  };

  virtual ~Conversation() = default;
  /// Sends the first jobs, or, if it was restored, those that were out at the checkpoint.
  virtual void begin() = 0;
  /// Waits for one event and acts on it. May throw Pool::Interrupted while it waits, with its state
  /// whole.
  virtual void advance() = 0;
  virtual Progress progress() const = 0;
  /// Whether nothing is left to do, before any stop that the input asks for.
  virtual bool is_finished() const { return false; }
  /// The global model of the present version, aligned; null if the protocol has none.
  virtual Parameters* model() { return nullptr; }
  /// After the last event of a run that was not interrupted: records what is still out.
  virtual void end() {}
  /// For the closing line: "up_mb=1.234 down_mb=1.234".
  virtual std::string summary() const = 0;
  /// Everything but the model, evaluations and records, which the run saves.
  virtual void archive(Archive& archive) = 0;
  /// Host times and ranks: they may differ between equal runs.
  virtual void archive_wall(Archive&) {}
};

/// A run as rank 0 will serve it, built and checked before anything is written.
class Preparation {
 public:
  virtual ~Preparation() = default;
  /// `--check`: prints what would run, and the memory that it needs.
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
  std::string kind;   ///< "method", or the option that chooses one: "method.merge"
  std::string title;  ///< "merge rules (method.merge)"
  std::vector<Item> items;
};

struct Protocol {
  std::string name, help;
  std::function<void(OptionTable&)> declare{};
  std::vector<const TableSchema*> tables{};  ///< of its run files
  /// Its methods first, then the rules of which they are composed.
  std::function<std::vector<Listing>()> list{};
  /// Brings the defaults of the method. InputError if the rules that are asked for do not exist or
  /// do not go together. May be called again on the same configuration.
  std::function<void(Config&)> choose{};
  /// On rank 0. InputError and DataError if something is wrong with the input. Configuration and
  /// experiment must outlive the result.
  std::function<std::unique_ptr<Preparation>(const Config&, const Experiment&)> prepare{};
  /// On every rank that works. All arguments must outlive the kinds of jobs.
  std::function<void(JobKinds&, Residents&, const Config&, const Experiment&)> add_jobs{};
};

}  // namespace espalier
