#include "espalier/method/mergesfl_estimates.h"

namespace espalier::split {

SpeedEstimates::SpeedEstimates(std::vector<SampleTime> first, double kept) : kept_(kept) {
  for (const SampleTime& time : first) {
    compute_s_.push_back(time.compute_s);
    transfer_s_.push_back(time.transfer_s);
  }
}

void SpeedEstimates::observe(std::int64_t worker, const SampleTime& seen) {
  const auto i = static_cast<std::size_t>(worker);
  compute_s_[i] = kept_ * compute_s_[i] + (1 - kept_) * seen.compute_s;
  transfer_s_[i] = kept_ * transfer_s_[i] + (1 - kept_) * seen.transfer_s;
}

std::vector<double> SpeedEstimates::sample_s() const {
  std::vector<double> both;
  for (std::size_t i = 0; i < compute_s_.size(); ++i) {
    both.push_back(compute_s_[i] + transfer_s_[i]);
  }
  return both;
}

void SpeedEstimates::archive(Archive& archive) {
  archive.value("compute_s", compute_s_);
  archive.value("transfer_s", transfer_s_);
}

}  // namespace espalier::split
