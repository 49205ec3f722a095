#pragma once
// Every option of the program: each part declares its own, this file only calls them all.

#include "espalier/config/options.h"

namespace espalier {

OptionTable all_options();

}  // namespace espalier
