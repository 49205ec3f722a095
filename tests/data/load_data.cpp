// Writes the data that the program trains on. For each line "INPUT<tab>OUT" of stdin it loads the
// data of that input file and writes to OUT the inputs of all training samples, of all test
// samples, and the labels of both, as raw numbers. A line of stdout has the sizes, or the message
// with which the data is refused. Driven by tests/cli/awkward_files_test.py.

#include <fmt/ranges.h>

#include <fstream>
#include <iostream>
#include <numeric>

#include "espalier/app/options.h"
#include "espalier/base/error.h"
#include "espalier/base/hdf5.h"
#include "espalier/base/log.h"
#include "espalier/data/dataset.h"
#include "espalier/method/register.h"
#include "espalier/model/model.h"

namespace espalier {
namespace {

void put(std::ofstream& file, const at::Tensor& tensor) {
  const at::Tensor whole = tensor.contiguous();
  file.write(static_cast<const char*>(whole.const_data_ptr()),
             static_cast<std::streamsize>(whole.nbytes()));
}

/// A line of JSON.
std::string load(const std::string& input, const std::string& out) {
  Config config(all_options(protocols()));
  config.read_file(input);
  set_model_defaults(config);
  const Dataset data = load_dataset(config);
  std::ofstream file(out, std::ios::binary);
  std::vector<at::Tensor> labels;
  for (const Split* split : {data.train.get(), data.test.get()}) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(split->size()));
    std::iota(all.begin(), all.end(), 0);
    put(file, split->inputs(all));
    labels.push_back(split->labels(all));
  }
  for (const at::Tensor& of_split : labels) put(file, of_split);
  file.close();
  ESPALIER_CHECK(file.good(), "cannot write {}", out);
  return formatted(
      R"({{"sample": [{}], "classes": {}, "vocabulary": {}, "next_token": {}, "train": {}, )"
      R"("test": {}}})",
      fmt::join(data.shape.sample, ", "), data.shape.classes, data.shape.vocabulary,
      data.shape.next_token, data.train->size(), data.test->size());
}

}  // namespace
}  // namespace espalier

int main() {
  espalier::h5_quiet();
  espalier::set_verbosity(espalier::Verbosity::quiet);  // stdout is for the answers
  std::string input;
  std::string out;
  while (std::getline(std::cin, input, '\t') && std::getline(std::cin, out)) {
    try {
      std::cout << espalier::load(input, out) << std::endl;
    } catch (const espalier::Error& error) {
      std::cout << "error " << static_cast<int>(error.status()) << " " << error.what() << std::endl;
    }
  }
}
