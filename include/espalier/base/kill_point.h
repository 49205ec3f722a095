#pragma once
// Named places at which a test can kill the program, to see that nothing is lost. The environment
// variable ESPALIER_KILL_AT names one: NAME, NAME:N (the N-th time that it is passed), NAME:N@RANK
// (on that rank alone). Without it a place costs one comparison.

namespace espalier {

/// Ends this process by SIGKILL if ESPALIER_KILL_AT asks for it.
void kill_point(const char* name);

}  // namespace espalier
