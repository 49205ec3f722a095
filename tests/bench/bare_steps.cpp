// The program's training steps alone: no server, no messages, no merge. rounds.py compares whole
// runs with it:  bare_steps INPUT.ini PART PARTS [--section.key=value ...] waits for a line on
// stdin, trains every PARTS-th client of every round, and prints the seconds of each round.

#include <ATen/Parallel.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <vector>

#include "espalier/app/options.h"
#include "espalier/device/memory.h"
#include "espalier/method/register.h"
#include "espalier/protocol/rounds/client_stepper.h"

int main(int argc, char** argv) {
  using namespace espalier;
  if (argc < 4) {
    std::fputs("usage: bare_steps INPUT.ini PART PARTS [--section.key=value ...]\n", stderr);
    return 2;
  }
  install_counting_allocator();
  at::set_num_threads(1);
  Config config(all_options(protocols()));
  config.read_file(argv[1]);
  const std::int64_t part = std::atoll(argv[2]), parts = std::atoll(argv[3]);
  for (int i = 4; i < argc; ++i) {
    const std::string word = argv[i] + 2;
    const auto equals = word.find('=');
    config.set(word.substr(0, equals), word.substr(equals + 1), "the command line");
  }
  const Experiment e = build_experiment(config);
  const auto full = Submodel::full(*e.model.layout);
  Parameters model(e.plans->buffer_layout(full, Packing::aligned));
  initialise(model, e.seed);
  const auto dense = e.plans->buffer_layout(full, Packing::dense);
  const SharedBytes payload = pack_payload(*e.plans, model, *dense);

  std::puts("ready");
  std::fflush(stdout);
  std::string line;
  std::getline(std::cin, line);
  std::vector<double> seconds;
  for (std::int64_t round = 0; round < e.rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (std::int64_t client = part; client < e.fleet->size(); client += parts) {
      rounds::ClientTask task;
      task.client = client;
      task.nth_task = round;
      task.base_version = round;
      task.submodel = full;
      rounds::ClientStepper stepper({config, e}, {}, task,
                                    static_cast<std::int64_t>(payload->size()), payload);
      while (stepper.step()) {
      }
      if (stepper.finish().first.steps == 0) return 1;
    }
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  for (const double s : seconds) std::printf("%.6f\n", s);
}
