#include "espalier/method/register.h"

#include "espalier/method/asynchronous.h"
#include "espalier/method/cos2p.h"
#include "espalier/method/dc_asgd.h"
#include "espalier/method/depthfl.h"
#include "espalier/method/fedavg.h"
#include "espalier/method/feddyn.h"
#include "espalier/method/fedprox.h"
#include "espalier/method/fedrolex.h"
#include "espalier/method/fjord.h"
#include "espalier/method/heterofl.h"
#include "espalier/method/masks.h"
#include "espalier/method/prunefl.h"
#include "espalier/method/ramfed.h"

namespace espalier {

const Catalogue& catalogue() {
  static const Catalogue all = [] {
    Catalogue c;
    register_fedavg(c);
    register_fedprox(c);
    register_feddyn(c);
    register_heterofl(c);
    register_fedrolex(c);
    register_asynchronous(c);
    register_dc_asgd(c);
    register_masks(c);
    register_cos2p(c);
    register_depthfl(c);
    register_ramfed(c);
    register_prunefl(c);
    register_fjord(c);
    return c;
  }();
  return all;
}

}  // namespace espalier
