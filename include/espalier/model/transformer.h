#pragma once
// The common parts of the transformer families: pre-norm blocks of attention and MLP around a
// residual stream [batch, positions, embed]. Axes that a submodel can cut: the stream, heads,
// columns within a head (separately for queries with keys and for values), hidden neurons, and the
// positions of the stream that a block's attention and MLP write.

#include <cstdint>
#include <string>
#include <vector>

#include "espalier/model/layers.h"

namespace espalier {

/// Attention scores are divided by the square root of a width: the kept columns of a head, its
/// columns in the full model, or the full model's residual stream.
enum class ScoreScale { kept, full, embed };

/// Added to the variance in the norms of gpt.
inline constexpr double kGptEpsilon = 1e-5;

struct TransformerChoice {
  std::int64_t depth = 0;
  std::int64_t embed = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  ///< divides heads; each is used by heads / kv_heads query heads
  std::int64_t hidden = 0;    ///< of the MLP
  bool qkv_bias = true;
  bool linear_bias = true;  ///< of the other linear layers of a block
  bool fused_qkv = true;
  bool rms_norm = false;
  bool swiglu = false;
  bool rotary = false;
  double rotary_base = 10000;
  ScoreScale scale = ScoreScale::kept;
  std::int64_t exits = 1;  ///< classifiers, the head included
  // Set by the family, not by options.
  std::int64_t positions = 0;  ///< tokens of a sample, at most
  std::int64_t masked = 0;     ///< hidden tokens of a sample, which are predicted
  std::int64_t mask_token = 0;
  bool causal = false;
  bool tanh_gelu = false;
  double epsilon = 1e-6;           ///< of the norms
  double output_deviation = 0.02;  ///< first values of the layers that write into the stream
};

/// Reads the options; InputError if sizes do not fit each other. `epsilon`: the family's own, if
/// model.norm_epsilon names no other.
TransformerChoice transformer_choice(const Config& config, double epsilon = 1e-6);
/// Reads "model.positions" and "model.rotary_base".
void read_positions(TransformerChoice& choice, const Config& config);
/// Declares the options of all transformer families: "model.depth", "model.embed", ...
void declare_transformer_options(OptionTable& table);

/// Customary names of a block's entries in one family.
struct BlockNames {
  std::string prefix;  ///< of the blocks: "blocks" of "blocks.0.norm1.weight"
  std::string norm1;
  std::string qkv;  ///< the fused projection; else q_proj, k_proj, v_proj beside it
  std::string projection;
  std::string norm2;
  std::string up;  ///< the MLP's first layer; with SwiGLU gate_proj is beside it
  std::string down;
};

/// Makes a classifier's layers in `block`, with the prefix of its names ("exits.0.").
using HeadLayers = std::function<std::vector<Layer>(int block, const std::string& prefix)>;

/// Adds the blocks to layout and model (Model::transformer gets their axes) and, if `head` is
/// given, the exits between them and the head after them.
void add_transformer_blocks(Model& model, Layout& layout, const TransformerChoice& choice,
                            const BlockNames& names, int embed_axis, const HeadLayers& head = {});

/// A linear layer over the last dimension: `name`.weight [out, in] and `name`.bias [out], normal
/// with `deviation` and zero at first. Scaler as in conv2d, by the kept fraction of `out`.
Layer dense(Layout& layout, int block, const std::string& name, Dimension out, Dimension in,
            bool bias, double deviation = 0.02, bool first = false);

/// Layer or RMS norm over the kept units of the stream.
Layer stream_norm(const TransformerChoice& choice, Layout& layout, int block,
                  const std::string& name, int axis);

/// Token embedding `tokens`.weight [vocabulary, embed] plus, if positions are learned, their
/// embedding `positions` [choice.positions, embed]. Input: int64 [batch, length]. Sets
/// Context::hidden if choice.masked is above 0. `weight`, if given, receives the entry of the
/// embedding.
Layer token_stem(const TransformerChoice& choice, Layout& layout, int block,
                 const std::string& tokens, const std::string& positions, int vocabulary_axis,
                 int embed_axis, int* weight = nullptr);

/// The head that predicts the hidden tokens from their positions (choice.masked above 0): the norm,
/// then a linear layer, with the names of add_classifying_transformer()'s head. The other positions
/// cost it nothing.
std::vector<Layer> token_head(const TransformerChoice& choice, Layout& layout, int block,
                              const std::string& prefix, int embed_axis, int class_axis);

enum class Pooling { token, mean };
/// The blocks and class heads of vit and encoder. A head is the first token or the mean over all
/// after the norm, then a linear layer, named `prefix`norm and `prefix`head; with model.projection
/// a projection head is between these two (add_head).
void add_classifying_transformer(Model& model, Layout& layout, const Config& config,
                                 const TransformerChoice& choice, Pooling pooling, int embed_axis);
/// Reads "model.pooling".
Pooling pooling_choice(const Config& config);

/// HeteroFL's scaler of a stem that writes the stream: the factor of its output, 1 if it is off or
/// nothing is cut.
double stream_scaler(const Submodel& submodel, int axis, const Context& context);

}  // namespace espalier
