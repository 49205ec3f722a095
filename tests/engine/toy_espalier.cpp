// The program with another protocol: clients count, and each count makes a version of the model. It
// has one kind of job, one event, and a resident with the client's sum; tests/cli/toy_test.py runs
// it.

#include "espalier/app/commands.h"
#include "espalier/engine/clock.h"
#include "espalier/train/weights.h"

namespace espalier {
namespace {

constexpr JobKind kCount = job_kind("toy.count");
constexpr ResidentKind kSum = job_kind("toy.sum");

const TableSchema& counts_schema() {
  static const TableSchema schema{"/counts",
                                  {{"version", ColumnType::integer, "1", "version that was made"},
                                   {"client", ColumnType::integer, "1", "client that counted"},
                                   {"sum", ColumnType::integer, "1", "sum of its counts so far"}}};
  return schema;
}

/// The sum of 1, 2, ... `counted`.
struct Sum final : Resident {
  std::int64_t counted = 0, sum = 0;
  void archive(Archive& archive) override {
    archive.value("counted", counted);
    archive.value("sum", sum);
  }
};

class Counter final : public Stepper {
 public:
  Counter(Sum& sum, std::int64_t target) : sum_(sum), target_(target) {}
  bool step() override {
    if (sum_.counted == target_) return false;
    sum_.sum += ++sum_.counted;
    return true;
  }
  Output finish() override {
    ByteArchive out;
    out.value("sum", sum_.sum);
    return {to_shared(out.take()), to_shared({})};
  }

 private:
  Sum& sum_;
  std::int64_t target_;
};

class Counting final : public Conversation {
 public:
  Counting(Parameters model, const ClockSettings& clock, std::int64_t clients, Run& run)
      : run_(run),
        model_(std::move(model)),
        sent_(static_cast<std::size_t>(clients), 0),
        targets_(sent_.size(), 3),
        clock_(make_clock(clock, run.pool(), run.real_time())) {
    for (Endpoint client = 0; client < clients; ++client) clients_.push_back(client);
  }
  void begin() override {
    clock_->start(now_);
    for (const Endpoint client : clients_) send(client);
  }
  void advance() override {
    std::optional<Clock::Event> event;
    run_.heed_stops([&] { event = clock_->next({}); });
    now_ = event->flight.finish;
    const Endpoint client = event->flight.endpoint;
    std::int64_t sum = 0;
    ByteArchive(*event->answer->head).value("sum", sum);
    model_.data()[version_ % 7] += 1e-3F * static_cast<float>(sum);
    ++version_;
    Row row(counts_schema());
    run_.records().append(row.set("version", version_).set("client", client).set("sum", sum));
    run_.report({version_, now_, static_cast<double>(sum)});
    sent_.at(client) = now_;
    targets_.at(client) += 2 + client;
    send(client);
    run_.made_version(version_, now_, model_);
  }
  Progress progress() const override { return {version_, now_, now_}; }
  Parameters* model() override { return &model_; }
  std::string summary() const override { return formatted("clients={}", clients_.size()); }
  void archive(Archive& archive) override {
    archive.open("counting");
    archive.value("version", version_);
    archive.value("now", now_);
    archive.value("sent", sent_);
    archive.value("targets", targets_);
    archive_residents(archive, run_.pool(), kSum, clients_);
    archive.close();
  }

 private:
  void send(Endpoint client) {
    Flight flight{.number = client, .endpoint = client};
    flight.sent = sent_.at(client);
    flight.compute = (client + 2) * 1'000'000'000;
    Job job{.kind = kCount, .number = client, .endpoint = client, .needs_resident = true};
    job.version = targets_.at(client);
    job.head = job.payload = to_shared({});
    clock_->send(flight, job);
  }

  Run& run_;
  Parameters model_;
  std::int64_t version_ = 0;
  Nanoseconds now_ = 0;
  std::vector<std::int64_t> sent_, targets_, clients_;  // of the outstanding jobs
  std::unique_ptr<Clock> clock_;
};

struct Prepared final : Preparation {
  Prepared(const Config& config, const Experiment& experiment)
      : model(first_model(config, experiment)),
        clock(clock_settings(config, *experiment.fleet)),
        clients(experiment.fleet->size()) {}
  void print_check() const override {}
  std::unique_ptr<Conversation> converse(Run& run) override {
    return std::make_unique<Counting>(std::move(model), clock, clients, run);
  }
  Parameters model;
  ClockSettings clock;
  std::int64_t clients;
};

Protocol counting() {
  Protocol p{.name = "counting", .help = "counts", .tables = {&counts_schema()}};
  p.declare = [](OptionTable&) {};
  p.list = [] { return std::vector<Listing>{{"method", "", {{"count", ""}}}}; };
  p.choose = [](Config&) {};
  p.prepare = [](const Config& c, const Experiment& e) { return std::make_unique<Prepared>(c, e); };
  p.add_jobs = [](JobKinds& kinds, Residents& residents, const Config&, const Experiment&) {
    residents.add(kSum, [](Endpoint) { return std::make_unique<Sum>(); });
    kinds.add(kCount, [&residents](const Job& job) {
      return std::make_unique<Counter>(residents.at<Sum>(kSum, job.endpoint), job.version);
    });
  };
  return p;
}

}  // namespace
}  // namespace espalier

int main(int argc, char** argv) {
  return espalier::run_command(&argc, &argv, {espalier::counting()}, {argv + 1, argv + argc});
}
