#pragma once
// A round under way: the conversation of hosts and workers, batch by batch, from the model's
// broadcast to the last cluster's model. In a cluster everybody waits for everybody in each
// iteration; clusters are independent of each other. Nothing outside changes before the round has
// ended, so an interrupted round is repeated from its beginning.

#include <vector>

#include "espalier/engine/clock.h"
#include "espalier/model/parameters.h"
#include "espalier/protocol/split/costs.h"
#include "espalier/protocol/split/links.h"
#include "espalier/protocol/split/relay.h"

namespace espalier::split {

class Round {
 public:
  struct Worker {
    WorkerPlan plan;
    std::int64_t cluster = 0;
    std::int64_t jobs = 0;     ///< begun
    std::int64_t asked = 0;    ///< samples of the iteration for which the last job answers
    Nanoseconds handed = 0;    ///< when the host handed its last message to the link
    Nanoseconds received = 0;  ///< when the host had the worker's last message
    BottomResult result{};     ///< at the end; with models of the last iteration
    SharedBytes weights{};     ///< of the bottom, at the end
    // Sums of the round:
    Nanoseconds begun = 0, compute = 0, transfer = 0, waiting = 0, top = 0;
    Nanoseconds model_transfer = 0;  ///< the part of `transfer` that belongs to no iteration
    std::int64_t samples = 0, bytes_up = 0, bytes_down = 0;
    double loss_sum = 0;
    double mean_loss() const { return loss_sum / static_cast<double>(samples); }
  };
  struct Cluster {
    ClusterPlan plan;
    std::vector<std::size_t> workers{};  ///< indices, by ascending client
    std::int64_t iterations = 0;         ///< for which the host has done its work
    std::int64_t missing = 0;            ///< workers whose message the host waits for
    Nanoseconds ready = 0;               ///< when the host had the last of these messages
    Nanoseconds ended = 0;               ///< when the server had the cluster's model
    Nanoseconds top = 0;                 ///< time of the host's work
    SharedBytes weights{};               ///< of the host's part, at the end
    TopResult result{};                  ///< at the end
    std::int64_t server_bytes_up = 0, server_bytes_down = 0, device_bytes = 0;
  };
  /// An iteration of a cluster that has ended.
  struct Iteration {
    std::int64_t cluster = 0, iteration = 0, samples = 0;
    double loss_sum = 0;
    Nanoseconds received = 0, stepped = 0;
  };

  /// `links`: as they are at the beginning. All references must outlive the round.
  Round(const Experiment& experiment, const Parts& parts, const Costs& costs, Clock& clock,
        Links links, RoundPlan plan, RoundStart start);
  Round(const Round&) = delete;
  Round& operator=(const Round&) = delete;

  /// Sends the first jobs.
  void begin();
  /// Takes an answer when it arrives at the server, before its event.
  void arrived(Answer& answer) { relay_.take(answer); }
  /// Takes the events of the round's jobs.
  void take(const Clock::Event& event);
  bool has_ended() const { return open_ == 0; }
  /// When the last cluster's model was there.
  Nanoseconds ended() const;

  std::int64_t version() const { return start_.version; }
  const Links& links() const { return links_; }
  const std::vector<Worker>& workers() const { return workers_; }  ///< by cluster, then client
  const std::vector<Cluster>& clusters() const { return clusters_; }
  const std::vector<Iteration>& iterations() const { return iterations_; }
  /// Weights in the mean of all models; each sums to 1.
  double share(const Worker& worker) const;
  double share(const Cluster& cluster) const;
  /// By ascending client.
  std::vector<Observation> observations() const;

 private:
  Flight top_flight(std::size_t index, std::int64_t turn) const;
  void begin_top(std::size_t index);
  void step_top(std::size_t index);
  void finish_top(std::size_t index, Nanoseconds time);
  void send_bottom(std::size_t index, Nanoseconds time);
  void top_done(const Turn& turn, const Clock::Event& event);
  void end_iteration(Cluster& cluster, Nanoseconds time, const TopResult& result);
  bool has_features() const { return parts_.exchange == Exchange::features; }
  void end(Cluster& cluster, Nanoseconds time);
  void worker_done(std::size_t index, const Clock::Event& event);
  DeviceClass device(std::int64_t client) const {
    return experiment_.fleet->device_at(client, start_.version);
  }

  const Experiment& experiment_;
  const Parts& parts_;
  const Costs& costs_;
  Clock& clock_;
  Links links_;
  RoundPlan plan_;
  RoundStart start_;
  Relay relay_;
  std::vector<Worker> workers_;
  std::vector<Cluster> clusters_;
  std::vector<Iteration> iterations_;
  std::int64_t open_ = 0;  // clusters that have not ended
};

/// Adds the jobs of workers and hosts, and their residents. All arguments must outlive them.
void add_round_jobs(JobKinds& kinds, Residents& residents, const Experiment& experiment,
                    std::shared_ptr<const Parts> parts);

/// The mean of the clusters' models, in double precision in the order of the workers, into `model`.
/// NotFiniteError if a value is not finite.
void merge(const Experiment& experiment, const Parts& parts, const Round& round, Parameters& model);

}  // namespace espalier::split
