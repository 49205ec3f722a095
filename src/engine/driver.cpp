#include "espalier/engine/driver.h"

#include "espalier/base/stop.h"

namespace espalier {

std::optional<std::string> drive(Run& run, Conversation& conversation, bool is_restored) {
  run.start();
  if (!is_restored) run.evaluate_first(conversation);
  conversation.begin();
  std::optional<std::string> stop;
  while (true) {
    stop = stop_request();
    if (stop) break;
    try {
      run.save_if_due(conversation);
      const Conversation::Progress at = conversation.progress();
      if (run.reached_a_stop(at.version, at.now) || conversation.is_finished()) {
        run.finish_evaluations(conversation);
        break;
      }
      conversation.advance();
      run.take_evaluations();
    } catch (const Pool::Interrupted&) {
      // The next iteration reads the request.
    }
  }
  run.save_last(conversation, stop.has_value());
  if (!stop) conversation.end();
  run.records().flush();
  return stop;
}

}  // namespace espalier
