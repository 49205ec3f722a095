#include "espalier/data/dataset.h"

#include <cstdlib>

namespace espalier {
namespace {

Registry<DataSource> make_sources() {
  Registry<DataSource> sources("dataset");
  sources.add("digits",
              "5,000 + 1,000 handwritten digits (a part of MNIST) that come with the program",
              digits_source());
  sources.add("mnist",
              "handwritten digits, 60,000 + 10,000 images of 28 x 28 (IDX files, gzipped or not)",
              mnist_source());
  sources.add("cifar10", "CIFAR-10, colour images of 32 x 32 in 10 classes (binary files)",
              cifar10_source());
  sources.add("synthetic", "class means plus noise, of any size and shape; needs no files",
              synthetic_source());
  sources.add("text", "a text file for language models, as bytes or words", text_source());
  sources.add("agnews", "AG News, titles and descriptions as words in 4 classes (csv files)",
              agnews_source());
  return sources;
}

}  // namespace

const Registry<DataSource>& data_sources() {
  static const Registry<DataSource> kSources = make_sources();
  return kSources;
}

void declare_data_options(OptionTable& table) {
  std::vector<std::string> names;
  for (const auto& item : data_sources().items()) names.push_back(item.name);
  table.add({.key = "data.name",
             .type = OptionType::choice,
             .default_value = "digits",
             .help = "Which dataset to train on.",
             .choices = names});
  table.add(
      {.key = "data.dir",
       .type = OptionType::text,
       .default_value = "",
       .help =
           "Folder of the data; empty means the environment variable ESPALIER_DATA, else 'data'."});
  table.add({.key = "data.file",
             .type = OptionType::text,
             .default_value = "",
             .help = "text: the file, in the data folder or as seen from the working directory; "
                     "empty means tinyshakespeare/input.txt."});
  table.add({.key = "data.length",
             .type = OptionType::integer,
             .default_value = "64",
             .help = "text, agnews: tokens of a sample.",
             .unit = "tokens",
             .minimum = 1,
             .maximum = 1e6});
  table.add({.key = "data.vocabulary",
             .type = OptionType::integer,
             .default_value = "10000",
             .help = "text (words), agnews: tokens that exist, among them 0 for padding and 1 for "
                     "words outside the vocabulary.",
             .unit = "tokens",
             .minimum = 3,
             .maximum = 1e7});
  table.add({.key = "data.partition",
             .type = OptionType::choice,
             .default_value = "iid",
             .help = "How the training samples are divided among the clients.",
             .choices = {"iid", "dirichlet", "shards"}});
  table.add(
      {.key = "data.alpha",
       .type = OptionType::real,
       .default_value = "0.5",
       .help = "Concentration of the Dirichlet partition; small values make clients differ more.",
       .minimum = 1e-3});
  table.add({.key = "data.samples_per_client",
             .type = OptionType::integer,
             .default_value = "0",
             .help = "Training samples of each client; 0 divides all of them.",
             .minimum = 0});
  table.add({.key = "data.min_per_client",
             .type = OptionType::integer,
             .default_value = "1",
             .help = "Fewest samples of a client where data.samples_per_client is 0.",
             .minimum = 1});
  table.add({.key = "data.shards_per_client",
             .type = OptionType::integer,
             .default_value = "2",
             .help = "Shards of each client in the shards partition.",
             .minimum = 1});
  table.add({.key = "data.train_limit",
             .type = OptionType::integer,
             .default_value = "0",
             .help = "Use only the first so many training samples; 0 means all.",
             .minimum = 0});
  table.add({.key = "data.test_limit",
             .type = OptionType::integer,
             .default_value = "0",
             .help = "Use only the first so many test samples; 0 means all.",
             .minimum = 0});
  table.add({.key = "data.calibration",
             .type = OptionType::integer,
             .default_value = "1000",
             .help = "Training samples on which the statistics of batch norms are computed before "
                     "an evaluation.",
             .minimum = 1});
  for (const auto& item : data_sources().items()) item.value.declare(table);
}

std::filesystem::path data_folder(const Config& config) {
  const std::string given = config.text("data.dir");
  if (!given.empty()) return given;
  const char* environment = std::getenv("ESPALIER_DATA");
  return environment && *environment ? environment : "data";
}

Dataset load_dataset(const Config& config) {
  return data_sources().get(config.text("data.name")).value.load(config, data_folder(config));
}

}  // namespace espalier
