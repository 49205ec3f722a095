// Texts for masked language models (Devlin et al. 2019): some tokens of each text are replaced by a
// mask token, which no text has, and these are predicted. As in the code of BERT, every text has
// the same number of them, so that all batches weigh their losses alike.

#include <algorithm>
#include <cmath>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/random.h"
#include "splits.h"

namespace espalier {
namespace {

// Of tests: the same tokens in each run, so that losses of runs can be compared.
const Purpose kHidden = register_purpose("data.hidden");

class MaskedSplit final : public Split {
 public:
  MaskedSplit(std::unique_ptr<Split> texts, const DataShape& shape)
      : texts_(std::move(texts)), mask_token_(shape.vocabulary - 1), masked_(shape.masked) {}

  std::int64_t size() const override { return texts_->size(); }
  std::int64_t label(std::int64_t) const override { return 0; }
  at::Tensor inputs(std::span<const std::int64_t> indices, Stream* draws) const override {
    return batch(indices, draws).inputs;
  }
  at::Tensor labels(std::span<const std::int64_t> indices) const override {
    return texts_->inputs(indices);
  }

  Batch batch(std::span<const std::int64_t> indices, Stream* draws) const override {
    Batch batch{texts_->inputs(indices), {}};
    const std::int64_t length = batch.inputs.size(1);
    batch.labels = at::empty({batch.inputs.size(0), masked_}, at::kLong);
    auto* tokens = batch.inputs.data_ptr<std::int64_t>();
    auto* label = batch.labels.data_ptr<std::int64_t>();
    for (const std::int64_t index : indices) {
      Stream fixed(0, kHidden, index);
      for (const std::int64_t place : (draws ? *draws : fixed).choose(masked_, length)) {
        *label++ = std::exchange(tokens[place], mask_token_);
      }
      tokens += length;
    }
    return batch;
  }

 private:
  std::unique_ptr<Split> texts_;
  std::int64_t mask_token_;
  std::int64_t masked_;
};

}  // namespace

std::int64_t masked_tokens(const Config& config, std::int64_t length) {
  const double rate = config.real("data.mask_rate");
  if (rate == 0) return 0;
  return std::max<std::int64_t>(1, std::llround(rate * static_cast<double>(length)));
}

DataShape masked_shape(const Config& config, DataShape shape) {
  if (config.real("data.mask_rate") == 0) return shape;
  if (!shape.next_token) {
    throw InputError(
        formatted("data.mask_rate hides tokens of texts whose next token would be predicted, and "
                  "the samples of {} have another form: set it to 0",
                  config.text("data.name")));
  }
  shape.masked = masked_tokens(config, shape.sample[0]);
  shape.next_token = false;
  shape.vocabulary = std::max(shape.vocabulary, shape.classes) + 1;
  return shape;
}

void make_masked(const Config& config, Dataset& data) {
  data.shape = masked_shape(config, data.shape);
  if (data.shape.masked == 0) return;
  for (std::unique_ptr<Split>* split : {&data.train, &data.test}) {
    if (*split) *split = std::make_unique<MaskedSplit>(std::move(*split), data.shape);
  }
  if (!data.words.empty()) data.words += "\n<mask>";
}

}  // namespace espalier
