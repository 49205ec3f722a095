#pragma once
// A client's task and its result, as sent in the heads of messages. The weights are the payloads of
// these messages (train/trainer.h).

#include <cstdint>
#include <span>
#include <vector>

#include "espalier/base/bytes.h"
#include "espalier/comm/mailbox.h"
#include "espalier/train/evaluate.h"
#include "espalier/train/objective.h"

namespace espalier::rounds {

/// `layout` is of the model; it is read only if values are restored.
void archive_peer(Archive& archive, const Layout* layout, PeerModel& peer);

struct ClientTask : LocalTask {
  std::int64_t task = 0;       ///< number, in order of sending
  Nanoseconds finish = 0;      ///< time of its expected answer; only for checkpoints
  bool answers_twice = false;  ///< an injected fault (faults.h)
  bool not_finite = false;     ///< an injected fault
  Bytes state{};               ///< the client's state before the task

  Bytes encode() const;
  /// Bytes of the description in an encoded task, without the state.
  std::int64_t description_bytes(std::int64_t encoded) const {
    return encoded - static_cast<std::int64_t>(state.size());
  }
  static ClientTask decode(const Layout& layout, std::span<const std::byte> bytes);
};

struct ClientResult {
  std::int64_t task = 0;
  bool out_of_memory = false;
  bool failed_in_step = false;  ///< it ran out of memory in a step, not before or between steps
  std::int64_t samples = 0;     ///< trained on, counting repeats
  std::int64_t steps = 0;       ///< that ended
  double train_loss = 0;        ///< mean over the samples of the training, without a search
  EvaluationSums local;  ///< of the received model on the client's local test; no samples: none
  std::int64_t peak_bytes = 0;
  std::int64_t cap_bytes = 0;    ///< 0: not capped
  std::int64_t asked_bytes = 0;  ///< the allocation that was refused
  /// With a search: its own peak, and the code of the submodel that it found; else 0 and empty.
  std::int64_t search_peak_bytes = 0;
  std::vector<std::int64_t> found;
  double wall_compute_s = 0;  ///< set by the server
  Bytes state;                ///< the client's state after the task

  std::int64_t begun_steps() const { return steps + (failed_in_step ? 1 : 0); }
  Bytes encode() const;
  static ClientResult decode(std::span<const std::byte> bytes);
};
/// Bytes of an answer's head, without the client's state.
std::int64_t answer_bytes();

}  // namespace espalier::rounds
