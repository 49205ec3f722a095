#pragma once
// The subcommands. Each returns the program's exit status and throws Errors; main prints them.

#include <string>
#include <vector>

#include "espalier/app/options.h"

namespace espalier {

/// `espalier run INPUT.ini [--section.key=value ...] [flags]`; see docs/index.md.
int run_command(int* argc, char*** argv, const Protocols& protocols,
                const std::vector<std::string>& arguments);

/// `espalier calibrate [NAME] [--quick] [-v]`: measures this machine and prints [device.NAME].
int calibrate_command(int* argc, char*** argv, const std::vector<std::string>& arguments);

int list_command(const Protocols& protocols, const std::vector<std::string>& arguments);
int explain_command(const Protocols& protocols, const std::vector<std::string>& arguments);
int info_command(const std::vector<std::string>& arguments);
int diff_command(const std::vector<std::string>& arguments);
int export_command(const Protocols& protocols, const std::vector<std::string>& arguments);
/// `espalier evaluate CKPT.h5 [--data.key=value ...]`: a stored model on test samples.
int evaluate_command(const Protocols& protocols, const std::vector<std::string>& arguments);
/// `espalier generate MODEL --prompt=TEXT ...`: prints text of a language model; docs/generate.md.
int generate_command(const Protocols& protocols, const std::vector<std::string>& arguments);
int completion_command(const Protocols& protocols, const std::vector<std::string>& arguments);
int man_command(const Protocols& protocols, const std::vector<std::string>& arguments);
int version_command();

}  // namespace espalier
