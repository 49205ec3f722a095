#pragma once
// What the random streams of tests are for.

#include "espalier/base/random.h"

namespace espalier {

inline const Purpose kTest = register_purpose("test");

}  // namespace espalier
