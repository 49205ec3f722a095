#pragma once
// Help in all its forms: `espalier --help`, shell completion and a man page, the last two generated
// from the commands, the flags and the declared options, so that they never go stale.

#include <string>

#include "espalier/app/options.h"

namespace espalier {

/// For `espalier --help`.
std::string usage();
/// For `espalier run --help`: its flags.
std::string run_usage();
/// A script for `source <(espalier completion bash)`; zsh runs the same through bashcompinit.
std::string bash_completion(const Protocols& protocols);
std::string zsh_completion(const Protocols& protocols);
/// espalier(1) in the man macros, for `man -l`.
std::string man_page(const Protocols& protocols);

}  // namespace espalier
