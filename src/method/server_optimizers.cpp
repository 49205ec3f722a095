#include "espalier/method/server_optimizers.h"

#include "espalier/protocol/rounds/server_optimizer.h"

namespace espalier::rounds {
namespace {

void add_method(Catalogue& c, const char* name, const char* help, Defaults defaults) {
  Method method;
  method.defaults = std::move(defaults);
  c.methods.add(name, help, method);
}

}  // namespace

void register_server_optimizers(Catalogue& c) {
  declare_server_options(c.options);
  // The papers tune the rates for each task; those of the adaptive methods here are ours.
  add_method(c, "fedavgm", "FedAvg with momentum on the server (Hsu et al. 2019)",
             {{"method.server_optimizer", "momentum"}, {"method.server_momentum", "0.9"}});
  add_method(c, "fedadam", "FedAvg with Adam on the server (Reddi et al. 2021)",
             {{"method.server_optimizer", "adam"}, {"method.server_lr", "0.01"}});
  add_method(c, "fedyogi", "FedAvg with Yogi on the server (Reddi et al. 2021)",
             {{"method.server_optimizer", "yogi"}, {"method.server_lr", "0.01"}});
  add_method(c, "fedadagrad", "FedAvg with Adagrad on the server (Reddi et al. 2021)",
             {{"method.server_optimizer", "adagrad"},
              {"method.server_lr", "0.1"},
              {"method.server_beta1", "0"}});
}

}  // namespace espalier::rounds
