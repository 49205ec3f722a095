#include "espalier/method/register.h"

#include "espalier/method/asynchronous.h"
#include "espalier/method/dc_asgd.h"
#include "espalier/method/fedavg.h"
#include "espalier/method/fedprox.h"
#include "espalier/method/fedrolex.h"
#include "espalier/method/heterofl.h"

namespace espalier {

const Catalogue& catalogue() {
  static const Catalogue all = [] {
    Catalogue c;
    register_fedavg(c);
    register_fedprox(c);
    register_heterofl(c);
    register_fedrolex(c);
    register_asynchronous(c);
    register_dc_asgd(c);
    return c;
  }();
  return all;
}

}  // namespace espalier
