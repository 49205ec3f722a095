#include "espalier/protocol/regions/region.h"

#include "espalier/base/coded.h"
#include "espalier/base/error.h"
#include "espalier/base/kill_point.h"
#include "espalier/device/charge.h"

namespace espalier::regions {
namespace {

void archive_task(Archive& archive, RegionTask& task) {
  archive.value("joins", task.joins);
  archive.value("from", task.from);
  archive.value("goal", task.goal);
  archive_list(archive, "applied", task.applied, [](Archive& a, RegionTask::Applied& applied) {
    a.value("exchange", applied.exchange);
    a.value("fragment", applied.fragment);
    a.value("steps", applied.steps);
    a.value("keeps", applied.keeps);
  });
  archive_list(archive, "sent", task.sent, [](Archive& a, RegionTask::Sent& sent) {
    a.value("exchange", sent.exchange);
    a.value("fragment", sent.fragment);
  });
  archive.value("shows", task.shows);
}

void archive_result(Archive& archive, RegionResult& result) {
  archive.value("samples", result.samples);
  archive.value("tokens", result.tokens);
  archive.value("loss_sum", result.loss_sum);
  archive.value("peak_bytes", result.peak_bytes);
}

std::int64_t value_bytes(const Fragment& fragment) {
  return fragment.values() * static_cast<std::int64_t>(sizeof(float));
}

class RegionStepper final : public Stepper {
 public:
  RegionStepper(Region& region, Job job)
      : region_(region), job_(std::move(job)), task_(RegionTask::decode(*job_.head)) {}

  bool step() override {
    if (!begun_) {
      region_.begin(job_.number, task_, *job_.payload);
      job_.payload.reset();
      begun_ = true;
    }
    if (!region_.step(task_)) return false;
    ++steps_done_;
    kill_point("region.step");
    return true;
  }
  Output finish() override {
    Bytes values = region_.finish(task_);
    return {to_shared(region_.result().encode()), to_shared(std::move(values))};
  }
  std::int64_t steps() const override { return task_.goal - task_.from; }
  std::int64_t steps_done() const override { return steps_done_; }

 private:
  Region& region_;
  Job job_;
  RegionTask task_;
  std::int64_t steps_done_ = 0;
  bool begun_ = false;
};

}  // namespace

void declare_region_options(OptionTable& table) {
  table.add_choice("regions.base", "shared",
                   "values from which a region's difference is taken: of the shared copy, or its "
                   "own of the last exchange (an earlier form of Streaming DiLoCo)",
                   {"shared", "local"});
}

RegionSettings region_settings(const Config& config, const Experiment& e) {
  RegionSettings s{.train = e.train,
                   .arrival = arrival_settings(config),
                   .codec = codec_of(config),
                   .fragments = make_fragments(config, e.model, *e.plans)};
  s.gradients = config.text("regions.exchange") == "gradients";
  if (s.gradients && (s.fragments.size() > 1 || config.integer("regions.overlap") > 0 ||
                      s.arrival.rule != Arrival::replace)) {
    throw InputError(
        "regions.exchange = gradients needs regions.fragments = whole, regions.overlap = 0 and "
        "regions.arrival = replace: every step waits for the mean gradient");
  }
  s.local_base = config.text("regions.base") == "local";
  s.shows_replicas = config.text("regions.evaluate") == "replicas";
  if (s.gradients && s.local_base) {
    throw InputError("regions.base = local is for regions.exchange = values");
  }
  // Schedules count versions; a version is a period, and each of its steps has its own rate.
  const std::int64_t period = config.integer("regions.period");
  s.train.horizon *= period;
  s.train.warmup *= period;
  s.train.step_every *= period;
  return s;
}

Bytes RegionTask::encode() const { return encoded(*this, archive_task); }
RegionTask RegionTask::decode(const Bytes& bytes) {
  return decoded<RegionTask>(bytes, archive_task);
}
Bytes RegionResult::encode() const { return encoded(*this, archive_result); }
RegionResult RegionResult::decode(const Bytes& bytes) {
  return decoded<RegionResult>(bytes, archive_result);
}

Region::Region(const Experiment& experiment, const RegionSettings& settings, std::int64_t region)
    : experiment_(experiment),
      settings_(settings),
      region_(region),
      account_(MemoryAccount::create(memory_bytes(experiment.fleet->device(region)))),
      trainer_(experiment, region, 0, 0) {}

std::shared_ptr<const BufferLayout> Region::dense_layout() const {
  return experiment_.plans->buffer_layout(Submodel::full(*experiment_.model.layout),
                                          Packing::dense);
}

void Region::begin(std::int64_t job, const RegionTask& task, const Bytes& payload) {
  const MemoryScope scope(account_);
  const Charge message(*account_, std::ssize(payload));
  if (job_ == job) return;
  result_ = {};
  job_ = job;
  std::span<const float> values = floats_of(payload);
  const auto take = [&](std::int64_t count) {
    const auto part = values.first(static_cast<std::size_t>(count));
    values = values.subspan(static_cast<std::size_t>(count));
    return part;
  };
  if (task.joins > 0) {
    join(take(dense_layout()->count(Kind::trainable)));
    joined_ = task.joins;
    step_ = task.from;
  }
  for (const RegionTask::Applied& applied : task.applied) {
    const auto shared =
        take(settings_.fragments[static_cast<std::size_t>(applied.fragment)].values());
    apply(applied, shared);
  }
}

/// Takes the whole shared copy; the inner optimiser begins anew.
void Region::join(std::span<const float> model) {
  const Submodel full = Submodel::full(*experiment_.model.layout);
  Bytes payload(model.size_bytes());
  std::ranges::copy(model, floats_of(payload).begin());
  trainer_.place(experiment_.model.layout, full, payload);
  trainer_.attach_optimizer();
  kept_.clear();
  if (settings_.gradients) return;
  shared_ = trainer_.parameters().copy();
}

/// The fragment's values in a buffer of the replica's layout.
std::vector<float> Region::values_of(const Fragment& fragment, const float* buffer) const {
  std::vector<float> values(static_cast<std::size_t>(fragment.values()));
  const BufferLayout& layout = trainer_.parameters().buffer_layout();
  experiment_.plans->plan(layout, *fragment.layout, nullptr, kTrained)->copy(buffer, values.data());
  return values;
}

void Region::set_values(const Fragment& fragment, std::span<const float> values,
                        float* buffer) const {
  const BufferLayout& layout = trainer_.parameters().buffer_layout();
  experiment_.plans->plan(*fragment.layout, layout, nullptr, kTrained)->copy(values.data(), buffer);
}

void Region::apply(const RegionTask::Applied& applied, std::span<const float> shared) {
  const Fragment& fragment = settings_.fragments[static_cast<std::size_t>(applied.fragment)];
  if (settings_.gradients) {
    set_values(fragment, shared, trainer_.parameters().gradients().data_ptr<float>());
    trainer_.set_learning_rate(learning_rate(settings_.train, step_ - 1));
    trainer_.update();
    return;
  }
  const auto kept = kept_.extract(applied.fragment);
  std::span<const float> before;  // own values when sent; none if it has not sent any
  if (!kept.empty() && kept.mapped().exchange == applied.exchange) {
    before = {kept.mapped().values.const_data_ptr<float>(), shared.size()};
  }
  const Charge buffers(*account_, (settings_.local_base ? 2 : 1) * value_bytes(fragment));
  std::vector<float> own;
  std::span<const float> fresh = shared;
  if (settings_.local_base) {
    own = values_of(fragment, shared_.data());
    for (std::size_t i = 0; i < own.size(); ++i) own[i] -= shared[i];
    fresh = own;
  }
  set_values(fragment, settings_.local_base && !before.empty() ? before : fresh, shared_.data());
  if (applied.keeps != 0) return;
  std::vector<float> local = values_of(fragment, trainer_.parameters().data());
  ArrivalSettings arrival = settings_.arrival;
  if (before.empty() && arrival.needs_sent_values()) arrival.rule = Arrival::replace;
  apply_arrival(arrival, fragment.tensors, fresh, before, local, applied.steps,
                learning_rate(settings_.train, step_));
  set_values(fragment, local, trainer_.parameters().data());
}

bool Region::step(const RegionTask& task) {
  if (step_ >= task.goal) return false;
  MemoryScope scope(account_);
  if (trainer_.is_between_epochs()) trainer_.begin_task(epoch_++);
  trainer_.set_learning_rate(learning_rate(settings_.train, step_));
  LocalTask local;
  local.client = region_;
  local.submodel = trainer_.parameters().submodel();
  const std::int64_t samples = trainer_.samples();
  result_.loss_sum += settings_.gradients ? trainer_.compute_gradient(objective_, local)
                                          : trainer_.train_batch(objective_, local);
  ++step_;
  const std::int64_t trained = trainer_.samples() - samples;
  result_.samples += trained;
  result_.tokens += trained * experiment_.model.shape.targets();
  return true;
}

Bytes Region::finish(const RegionTask& task) {
  const MemoryScope scope(account_);
  std::vector<Charge> buffers;  // of values and their encoded form
  Bytes all;
  if (task.shows != 0) {
    const auto dense = dense_layout();
    all.resize(static_cast<std::size_t>(dense->count(Kind::trainable)) * sizeof(float));
    buffers.emplace_back(*account_, std::ssize(all));
    const Parameters& own = trainer_.parameters();
    experiment_.plans->plan(own.buffer_layout(), *dense, nullptr, kTrained)
        ->copy(own.data(), floats_of(all).data());
  }
  for (const RegionTask::Sent& sent : task.sent) {
    const Fragment& fragment = settings_.fragments[static_cast<std::size_t>(sent.fragment)];
    std::vector<float> values = values_of(
        fragment, settings_.gradients ? trainer_.parameters().gradients().const_data_ptr<float>()
                                      : trainer_.parameters().data());
    if (settings_.keeps_sent_values()) {
      at::Tensor kept = at::empty({std::ssize(values)}, at::kFloat);
      std::ranges::copy(values, kept.data_ptr<float>());
      kept_[sent.fragment] = {sent.exchange, kept};
    }
    if (settings_.sends_differences()) {
      const std::vector<float> shared = values_of(fragment, shared_.data());
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = shared[i] - values[i];
    }
    const Bytes encoded = encode(settings_.codec, fragment.tensors, values);
    buffers.emplace_back(*account_, std::ssize(encoded) + value_bytes(fragment));
    all.insert(all.end(), encoded.begin(), encoded.end());
  }
  return all;
}

RegionResult Region::result() const {
  RegionResult result = result_;
  result.peak_bytes = std::max(peak_before_, account_->peak_bytes());
  return result;
}

void Region::archive_values(Archive& archive, const char* name, float* buffer) const {
  const BufferLayout& layout = trainer_.parameters().buffer_layout();
  const auto dense = dense_layout();
  std::vector<float> values(static_cast<std::size_t>(dense->count(Kind::trainable)));
  if (!archive.loading()) {
    experiment_.plans->plan(layout, *dense, nullptr, kTrained)->copy(buffer, values.data());
  }
  archive.value(name, std::span<float>(values));
  if (archive.loading()) {
    experiment_.plans->plan(*dense, layout, nullptr, kTrained)->copy(values.data(), buffer);
  }
}

void Region::archive(Archive& archive) {
  MemoryScope scope(account_);
  archive.value("joined", joined_);
  archive.value("step", step_);
  archive.value("epoch", epoch_);
  archive.value("job", job_);
  std::int64_t peak = result().peak_bytes;
  archive.value("peak", peak);
  if (archive.loading()) peak_before_ = peak;
  archive_result(archive, result_);
  if (joined_ == 0) return;
  trainer_.archive(archive);
  if (archive.loading()) {
    const auto values = static_cast<std::size_t>(dense_layout()->count(Kind::trainable));
    join(std::vector<float>(values, 0));
  }
  archive_values(archive, "replica", trainer_.parameters().data());
  if (settings_.gradients) {
    archive_values(archive, "gradient", trainer_.parameters().gradients().data_ptr<float>());
  } else {
    archive_values(archive, "shared", shared_.data());
  }
  trainer_.optimizer().archive(archive, *experiment_.plans, trainer_.parameters().buffer_layout());
  std::vector<std::int64_t> fragments;
  for (const auto& [fragment, kept] : kept_) fragments.push_back(fragment);
  archive.value("kept", fragments);
  for (const std::int64_t fragment : fragments) {
    Kept& kept = kept_[fragment];
    archive.value("exchange", kept.exchange);
    const auto size = settings_.fragments[static_cast<std::size_t>(fragment)].values();
    if (archive.loading()) kept.values = at::empty({size}, at::kFloat);
    archive.value("values",
                  std::span(kept.values.data_ptr<float>(), static_cast<std::size_t>(size)));
  }
}

void add_region_jobs(JobKinds& kinds, Residents& residents, const Experiment& experiment,
                     std::shared_ptr<const RegionSettings> settings) {
  residents.add(kRegion, [&experiment, settings](Endpoint region) {
    return std::make_unique<Region>(experiment, *settings, region);
  });
  kinds.add(kRegionJob, [&residents](Job job) {
    Region& region = residents.at<Region>(kRegion, job.endpoint);
    return std::make_unique<RegionStepper>(region, std::move(job));
  });
}

}  // namespace espalier::regions
