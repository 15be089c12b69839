"""Written by `python -m tools.renames`, read by `renames`. A blank line ends a table; those of old versions stay."""

TEXT = r"""
.block_sparse_moe. -> .mlp.
.experts..*\.w1.weight(?!\w) => .experts.gate_up_proj
.experts..*\.w3.weight(?!\w) => .experts.gate_up_proj
.experts..*\.w2.weight(?!\w) => .experts.down_proj

.block_sparse_moe. -> .mlp.
.experts..*\.w1.weight(?!\w) => .experts.gate_up_proj
.experts..*\.w3.weight(?!\w) => .experts.gate_up_proj
.experts..*\.w2.weight(?!\w) => .experts.down_proj
.block_sparse_moe.e_score_correction_bias(?!\w) -> .mlp.e_score_correction_bias

.block_sparse_moe. -> .mlp.
.gate.weight(?!\w) -> .router.weight
.experts..*\.w1.weight(?!\w) => .experts.gate_up_proj
.experts..*\.w3.weight(?!\w) => .experts.gate_up_proj
.experts..*\.w2.weight(?!\w) => .experts.down_proj

\.attn\. -> .self_attn.
\.ffn\. -> .mlp.
\.indexer\.compressor\. -> .compressor.indexer.
^embed\.weight(?!\w) -> embed_tokens.weight
^head\.weight(?!\w) -> lm_head.weight
^hc_head_fn(?!\w) -> hc_head.hc_fn
^hc_head_base(?!\w) -> hc_head.hc_base
^hc_head_scale(?!\w) -> hc_head.hc_scale
\.attn_norm\. -> .input_layernorm.
\.ffn_norm\. -> .post_attention_layernorm.
\.hc_attn_fn(?!\w) -> .attn_hc.fn
\.hc_attn_base(?!\w) -> .attn_hc.base
\.hc_attn_scale(?!\w) -> .attn_hc.scale
\.hc_ffn_fn(?!\w) -> .ffn_hc.fn
\.hc_ffn_base(?!\w) -> .ffn_hc.base
\.hc_ffn_scale(?!\w) -> .ffn_hc.scale
\.attn_sink(?!\w) -> .sinks
\.indexer\.weights_proj\. -> .compressor.indexer.scorer.weights_proj.
\.indexer\.wq_b\. -> .compressor.indexer.q_b_proj.
\.norm\. -> .kv_norm.
\.ape(?!\w) -> .position_bias
\.wq_a\. -> .q_a_proj.
\.self_attn\.wq_b\. -> .self_attn.q_b_proj.
\.wkv\. -> .kv_proj.
\.wgate\. -> .gate_proj.
\.wo_a\. -> .o_a_proj.
\.wo_b\. -> .o_b_proj.
\.q_norm\. -> .q_a_norm.
\.gate\.bias(?!\w) -> .gate.e_score_correction_bias
\.shared_experts\.w1\. -> .shared_experts.gate_proj.
\.shared_experts\.w2\. -> .shared_experts.down_proj.
\.shared_experts\.w3\. -> .shared_experts.up_proj.
\.experts..*\.w1.weight(?!\w) => .experts.gate_up_proj
\.experts..*\.w3.weight(?!\w) => .experts.gate_up_proj
\.experts..*\.w2.weight(?!\w) => .experts.down_proj

\.attn\.o_proj\. -> .self_attn.o_proj.

\.hc_pre\.hc_ -> .hc_
\.learnable_sink_param(?!\w) -> .sinks
\.linear_gate(?!\w) -> .gate_proj
\.hc_attn_layer\.hc_fn(?!\w) -> .attn_hc.fn
\.hc_attn_layer\.hc_base(?!\w) -> .attn_hc.base
\.hc_attn_layer\.hc_scale(?!\w) -> .attn_hc.scale
\.hc_mlp_layer\.hc_fn(?!\w) -> .ffn_hc.fn
\.hc_mlp_layer\.hc_base(?!\w) -> .ffn_hc.base
\.hc_mlp_layer\.hc_scale(?!\w) -> .ffn_hc.scale
\.hc_head_fn(?!\w) -> .hc_fn
\.hc_head_base(?!\w) -> .hc_base
\.hc_head_scale(?!\w) -> .hc_scale

\.self_attn\.gate_proj\. -> .self_attn.g_proj.

^(?:(?!timm_model\.))(.+) -> timm_model.\1

^embed_out\. -> lm_head.

^encoder\. -> vit.encoder.

^encoder\. -> vit.encoder.
encoder\.layer\. -> layers.
attention.query(?!\w) -> q_proj
attention.key(?!\w) -> k_proj
attention.value(?!\w) -> v_proj
attention.output.dense(?!\w) -> attention.o_proj
intermediate.dense(?!\w) -> mlp.fc1
output.dense(?!\w) -> mlp.fc2

^language_model.lm_head(?!\w) -> lm_head
^language_model(?!\w) -> model.language_model
^vision_embed_tokens(?!\w) -> model.vision_embed_tokens

^language_model.lm_head(?!\w) -> lm_head
^language_model(?!\w) -> model.language_model
^vision_embed_tokens(?!\w) -> model.vision_embed_tokens
^language_model.model(?!\w) -> language_model

^language_model.lm_head(?!\w) -> lm_head
^language_model(?!\w) -> model.language_model
^vision_model(?!\w) -> model.vision_model
^multi_modal_projector(?!\w) -> model.multi_modal_projector

^language_model.lm_head(?!\w) -> lm_head
^language_model(?!\w) -> model.language_model
^vision_model(?!\w) -> model.vision_model
^multi_modal_projector(?!\w) -> model.multi_modal_projector
^language_model.model(?!\w) -> language_model

^language_model.lm_head(?!\w) -> lm_head
^language_model(?!\w) -> model.language_model
^vision_tower(?!\w) -> model.vision_tower
^multi_modal_projector(?!\w) -> model.multi_modal_projector

^language_model.lm_head(?!\w) -> lm_head
^language_model(?!\w) -> model.language_model
^vision_tower(?!\w) -> model.vision_tower
^multi_modal_projector(?!\w) -> model.multi_modal_projector
^language_model.model(?!\w) -> language_model

^language_model.model(?!\w) -> language_model

^model\.(.+) -> \1
^(embed_tokens|layers|norm)\. -> language_model.\1.
^vision_encoder\. -> vision_tower.
^audio_encoder\. -> audio_tower.
^audio_adapter\. -> audio_tower.audio_adapter.

^model\.(?:(?!model\.))(.+) -> model.model.\1

^model\.language_model\.(.+) -> model.\1

^model\.language_model\.(.+) -> model.\1
mlp.experts..*\.gate_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.up_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.down_proj.weight(?!\w) => mlp.experts.down_proj

^model\.language_model\.(.+) -> model.\1
mlp.experts..*\.gate_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.up_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.down_proj.weight(?!\w) => mlp.experts.down_proj
ngram_embedding.shard_.*\.weight(?!\w) => ngram_embedding.weight

^new\.(.+) -> \1
encoder.layer(?!\w) -> layers
attention.o_proj(?!\w) -> self_attn.o_proj
attn_ln(?!\w) -> post_attention_layernorm
mlp_ln(?!\w) -> post_mlp_layernorm
lm_head.norm(?!\w) -> lm_head.layer_norm

^text_model.lm_head(?!\w) -> lm_head
^text_model(?!\w) -> model.text_model
^vqmodel(?!\w) -> model.vqmodel

^text_model.lm_head(?!\w) -> lm_head
^text_model(?!\w) -> model.text_model
^vqmodel(?!\w) -> model.vqmodel
^text_model.model(?!\w) -> text_model

^text_model.model(?!\w) -> text_model

^ultrabert\. -> model.

^ultrabert\. -> model.
^ultrabert\.(.+) -> \1

^ultrabert\.(.+) -> \1

attention.attention.query(?!\w) -> attention.q_proj
attention.attention.key(?!\w) -> attention.k_proj
attention.attention.value(?!\w) -> attention.v_proj
attention.output.dense(?!\w) -> attention.o_proj
mlp.weights_out(?!\w) -> mlp.down_proj

attention.self.query(?!\w) -> attention.q_proj
attention.self.key(?!\w) -> attention.k_proj
attention.self.value(?!\w) -> attention.v_proj
attention.self.relative_position_bias_table(?!\w) -> attention.relative_position_bias.relative_position_bias_table
attention.output.dense(?!\w) -> attention.o_proj
intermediate.dense(?!\w) -> mlp.fc1
output.dense(?!\w) -> mlp.fc2

attention_layer_norm(?!\w) -> input_layernorm
feedforward_layer_norm(?!\w) -> post_attention_layernorm
linear_attn.q_conv1d.weight(?!\w) => linear_attn.conv1d.weight
linear_attn.k_conv1d.weight(?!\w) => linear_attn.conv1d.weight
linear_attn.v_conv1d.weight(?!\w) => linear_attn.conv1d.weight

backbone. -> model.
mixer.experts..*\.up_proj.weight(?!\w) => mixer.experts.up_proj
mixer.experts..*\.down_proj.weight(?!\w) => mixer.experts.down_proj

block_sparse_moe\.input_linear\.weight(?!\w) -> block_sparse_moe.experts.gate_up_proj
block_sparse_moe\.output_linear\.weight(?!\w) -> block_sparse_moe.experts.down_proj
block_sparse_moe\.router\.layer\.weight(?!\w) -> block_sparse_moe.router.weight

emb_ln(?!\w) -> embeddings.LayerNorm
encoder.layers(?!\w) -> layers
mixer.out_proj(?!\w) -> self_attn.o_proj
norm1(?!\w) -> post_attention_layernorm
norm2(?!\w) -> post_mlp_layernorm

encoder.layer..*\.attention.self.rotary_embeddings.inv_freq(?!\w) -> rotary_embeddings.inv_freq
LayerNorm.gamma(?!\w) -> LayerNorm.weight
LayerNorm.beta(?!\w) -> LayerNorm.bias

encoder.layers(?!\w) -> layers
emb_ln(?!\w) -> embeddings.LayerNorm
attn.out_proj(?!\w) -> self_attn.o_proj
fc11(?!\w) -> up_proj
fc12(?!\w) -> gate_proj
fc2(?!\w) -> down_proj
norm1(?!\w) -> post_attention_layernorm
norm2(?!\w) -> post_mlp_layernorm

encoder.patch_embeddings.(\d+). -> stages.\1.patch_embeddings.
encoder.block.(\d+). -> stages.\1.blocks.
encoder.layer_norm.(\d+) -> stages.\1.layer_norm
attention.self.query(?!\w) -> attention.q_proj
attention.self.key(?!\w) -> attention.k_proj
attention.self.value(?!\w) -> attention.v_proj
attention.self.sr(?!\w) -> attention.sequence_reduction.sequence_reduction
attention.self.layer_norm(?!\w) -> attention.sequence_reduction.layer_norm
attention.output.dense(?!\w) -> attention.o_proj
mlp.dense1(?!\w) -> mlp.fc1
mlp.dense2(?!\w) -> mlp.fc2
layer_norm_1(?!\w) -> layernorm_before
layer_norm_2(?!\w) -> layernorm_after

encoder\.layer\. -> layers.
attention.query(?!\w) -> q_proj
attention.key(?!\w) -> k_proj
attention.value(?!\w) -> v_proj
attention.output.dense(?!\w) -> attention.o_proj
intermediate.dense(?!\w) -> mlp.fc1
output.dense(?!\w) -> mlp.fc2

encoder\.layer\. -> layers.
attention.query(?!\w) -> q_proj
attention.key(?!\w) -> k_proj
attention.value(?!\w) -> v_proj
attention.output.dense(?!\w) -> attention.o_proj
intermediate.dense(?!\w) -> mlp.fc1
output.dense(?!\w) -> mlp.fc2
encoder.relative_position_bias(?!\w) -> shared_position_bias
attention.attention.relative_position_bias.relative_position_bias_table(?!\w) -> relative_position_bias.relative_position_bias_table

feed_forward.experts..*\.gate_proj.weight(?!\w) => feed_forward.experts.gate_up_proj
feed_forward.experts..*\.up_proj.weight(?!\w) => feed_forward.experts.gate_up_proj
feed_forward.experts..*\.down_proj.weight(?!\w) => feed_forward.experts.down_proj

feed_forward.experts..*\.w1.weight(?!\w) => feed_forward.experts.gate_up_proj
feed_forward.experts..*\.w3.weight(?!\w) => feed_forward.experts.gate_up_proj
feed_forward.experts..*\.w2.weight(?!\w) => feed_forward.experts.down_proj

mlp.experts..*\.gate_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.up_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.down_proj.weight(?!\w) => mlp.experts.down_proj

mlp.experts..*\.gate_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.up_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.down_proj.weight(?!\w) => mlp.experts.down_proj
W_down(?!\w) -> mlp.fc1
W_up(?!\w) -> mlp.fc2
self_attn\.q_b_proj\. -> self_attn.q_gate_proj.

mlp.experts..*\.gate_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.up_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.down_proj.weight(?!\w) => mlp.experts.down_proj
^model\.word_embeddings\. -> model.embed_tokens.
\.attention\. -> .self_attn.
self_attn\.f_proj\. -> self_attn.forget_gate.f_proj.
self_attn\.dt_bias(?!\w) -> self_attn.forget_gate.dt_bias
self_attn\.A_log(?!\w) -> self_attn.forget_gate.A_log
q_conv1d.weight(?!\w) => conv1d.weight
k_conv1d.weight(?!\w) => conv1d.weight
v_conv1d.weight(?!\w) => conv1d.weight
\.self_attn\.dense\. -> .self_attn.o_proj.
\.mlp\.gate\.expert_bias(?!\w) -> .mlp.gate.e_score_correction_bias

mlp.experts..*\.gate_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.up_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.down_proj.weight(?!\w) => mlp.experts.down_proj
mlp.e_score_correction_bias(?!\w) -> mlp.gate.e_score_correction_bias

mlp.experts..*\.gate_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.up_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.down_proj.weight(?!\w) => mlp.experts.down_proj
mlp.experts.e_score_correction_bias(?!\w) -> mlp.gate.e_score_correction_bias
mlp.shared_expert. -> mlp.shared_experts.

mlp.experts..*\.gate_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.up_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.down_proj.weight(?!\w) => mlp.experts.down_proj
mlp.moe_statics.e_score_correction_bias(?!\w) -> mlp.gate.moe_statics.e_score_correction_bias

mlp.experts..*\.gate_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.up_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.down_proj.weight(?!\w) => mlp.experts.down_proj
mlp\.router\.gate\.weight(?!\w) -> mlp.gate.weight
mlp\.expert_bias(?!\w) -> mlp.e_score_correction_bias
mlp\.shared_mlp\. -> mlp.shared_experts.

mlp.experts..*\.gate_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.up_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.down_proj.weight(?!\w) => mlp.experts.down_proj
moe.router.expert_bias(?!\w) -> mlp.gate.e_score_correction_bias
post_attn_norm(?!\w) -> post_self_attn_layernorm
post_ffn_norm(?!\w) -> post_mlp_layernorm

mlp.experts..*\.gate_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.up_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.down_proj.weight(?!\w) => mlp.experts.down_proj
post_mlp_layernorm(?!\w) -> mlp.post_mlp_layernorm

mlp.experts..*\.gate_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.up_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.down_proj.weight(?!\w) => mlp.experts.down_proj
self_attn.attention_sink_bias(?!\w) -> self_attn.sinks

mlp.experts..*\.gate_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.up_proj.weight(?!\w) => mlp.experts.gate_up_proj
mlp.experts..*\.down_proj.weight(?!\w) => mlp.experts.down_proj
self_attn.softmax_offset(?!\w) -> self_attn.sinks

mlp\.experts\.fc1\.weight(?!\w) -> mlp.experts.gate_up_proj
mlp\.experts\.fc2\.weight(?!\w) -> mlp.experts.down_proj

model\.llm\.unembed\.weight(?!\w) -> lm_head.weight
model\.llm\. -> model.
embed\.weight(?!\w) -> embed_tokens.weight
embed_norm\. -> embed_tokens.embed_norm.
mlp\.experts\.w2_weight(?!\w) -> mlp.experts.down_proj
mlp\.experts\.w2_weight_scale(?!\w) -> mlp.experts.down_proj_scale_inv
mlp.gate.bias(?!\w) -> mlp.gate.e_score_correction_bias
attn\.wq_du(?!\w) -> self_attn.q_proj
attn\.wk_dv(?!\w) -> self_attn.k_proj
attn\.wv_dv(?!\w) -> self_attn.v_proj
attn\.wr_du(?!\w) -> self_attn.r_proj
attn\.wo_ud(?!\w) -> self_attn.o_proj
attn\.gate_attn(?!\w) -> self_attn.gate_proj
attn\.attn_sink_proj(?!\w) -> self_attn.sink_proj
\.attn\.(q_l2_clip|k_l2_clip|rel_l2_clip|k_sconv|v_sconv|rel_logits_proj)\. -> .self_attn.\1.
attn_sconv\. -> post_attention_convolution.
mlp_sconv\. -> post_mlp_convolution.
(convolution|sconv)\.weight(?!_) -> \1.conv1d.weight
(convolution|sconv)\.static_w(?!\w) -> \1.static_weight
(convolution|sconv)\.weight_proj(?!\w) -> \1.weight_proj.weight
mlp_norm(?!\w) -> post_attention_layernorm
attn_norm(?!\w) -> input_layernorm
(q|k|v)_input_norm(?!\w) -> \1_input_layernorm
attn_res\.attn_queries\.(\d+) -> layers.\1.attention_input.query
attn_res\.mlp_queries\.(\d+) -> layers.\1.mlp_input.query
attn_res\.output_query(?!\w) -> final_input.query

self_attn\.f_a_proj\. -> self_attn.forget_gate.f_a_proj.
self_attn\.f_b_proj\. -> self_attn.forget_gate.f_b_proj.
self_attn\.dt_bias(?!\w) -> self_attn.forget_gate.dt_bias
self_attn\.A_log(?!\w) -> self_attn.forget_gate.A_log
self_attn.q_conv1d.weight(?!\w) => self_attn.conv1d.weight
self_attn.k_conv1d.weight(?!\w) => self_attn.conv1d.weight
self_attn.v_conv1d.weight(?!\w) => self_attn.conv1d.weight
\.block_sparse_moe\. -> .mlp.
\.experts..*\.w1.weight(?!\w) => .experts.gate_up_proj
\.experts..*\.w3.weight(?!\w) => .experts.gate_up_proj
\.experts..*\.w2.weight(?!\w) => .experts.down_proj

vision_embedder\.patch_ln1(?!\w) -> embed_vision.patch_ln1
vision_embedder\.patch_dense(?!\w) -> embed_vision.patch_dense
vision_embedder\.patch_ln2(?!\w) -> embed_vision.patch_ln2
vision_embedder\.pos_embedding(?!\w) -> embed_vision.pos_embedding
vision_embedder\.pos_norm(?!\w) -> embed_vision.pos_norm
embed_vision\.embedding_projection(?!\w) -> embed_vision.multimodal_embedder.embedding_projection
"""
