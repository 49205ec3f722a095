#include "espalier/method/register.h"

#include "espalier/method/adaptcl.h"
#include "espalier/method/asynchronous.h"
#include "espalier/method/cocodc.h"
#include "espalier/method/cos2p.h"
#include "espalier/method/dc_asgd.h"
#include "espalier/method/decoupled_diloco.h"
#include "espalier/method/depthfl.h"
#include "espalier/method/diloco.h"
#include "espalier/method/fedavg.h"
#include "espalier/method/feddyn.h"
#include "espalier/method/federated_dropout.h"
#include "espalier/method/fednova.h"
#include "espalier/method/fedprox.h"
#include "espalier/method/fedrolex.h"
#include "espalier/method/fiarse.h"
#include "espalier/method/fjord.h"
#include "espalier/method/heterofl.h"
#include "espalier/method/hetlora.h"
#include "espalier/method/hier_favg.h"
#include "espalier/method/masks.h"
#include "espalier/method/mergesfl.h"
#include "espalier/method/moon.h"
#include "espalier/method/msfusion.h"
#include "espalier/method/parallelsfl.h"
#include "espalier/method/personal_layers.h"
#include "espalier/method/prunefl.h"
#include "espalier/method/prunefl_published.h"
#include "espalier/method/ramfed.h"
#include "espalier/method/scaffold.h"
#include "espalier/method/server_optimizers.h"
#include "espalier/method/splitfed.h"
#include "espalier/method/splitmix.h"
#include "espalier/protocol/rounds/protocol.h"

namespace espalier {

const rounds::Catalogue& rounds_catalogue() {
  static const rounds::Catalogue all = [] {
    rounds::Catalogue c;
    rounds::register_fedavg(c);
    rounds::register_fedprox(c);
    rounds::register_feddyn(c);
    rounds::register_heterofl(c);
    rounds::register_fedrolex(c);
    rounds::register_asynchronous(c);
    rounds::register_dc_asgd(c);
    rounds::register_masks(c);
    rounds::register_cos2p(c);
    rounds::register_depthfl(c);
    rounds::register_ramfed(c);
    rounds::register_prunefl(c);
    rounds::register_fjord(c);
    rounds::register_federated_dropout(c);
    rounds::register_splitmix(c);
    rounds::register_fiarse(c);
    rounds::register_prunefl_published(c);
    rounds::register_adaptcl(c);
    rounds::register_server_optimizers(c);
    rounds::register_fednova(c);
    rounds::register_scaffold(c);
    rounds::register_personal_layers(c);
    rounds::register_moon(c);
    rounds::register_msfusion(c);
    rounds::register_hetlora(c);
    return c;
  }();
  return all;
}

const regions::Catalogue& regions_catalogue() {
  static const regions::Catalogue all = [] {
    regions::Catalogue c{"method"};
    regions::register_diloco(c);
    regions::register_cocodc(c);
    regions::register_decoupled_diloco(c);
    return c;
  }();
  return all;
}

const split::Catalogue& split_catalogue() {
  static const split::Catalogue all = [] {
    split::Catalogue c;
    split::register_splitfed(c);
    split::register_mergesfl(c);
    split::register_parallelsfl(c);
    split::register_hier_favg(c);
    return c;
  }();
  return all;
}

std::vector<Protocol> protocols() {
  return {rounds::protocol(rounds_catalogue()), regions::protocol(regions_catalogue()),
          split::protocol(split_catalogue())};
}

}  // namespace espalier
