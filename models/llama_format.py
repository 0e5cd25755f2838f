"""Our Transformer <-> Hugging Face's Llama (with QK-norm: Qwen3): names and shapes of weights, and the config.

Only tensors and plain dicts go in and out, so that nothing of transformers is needed here. Ours keeps queries, keys and
values in one matrix, and gate and values in another; theirs are the same rows in matrices of their own.
"""

import re

import torch
from torch import Tensor

from models.transformer import Transformer

# The one place for their names. Ours -> theirs; several of theirs are the rows of ours, in this order. {} is the layer.
NAMES: dict[str, tuple[str, ...]] = {
    "embedding.weight": ("model.embed_tokens.weight",),
    "blocks.{}.mixing_norm.weight": ("model.layers.{}.input_layernorm.weight",),
    "blocks.{}.mixing.to_query_key_value.weight": (
        "model.layers.{}.self_attn.q_proj.weight",
        "model.layers.{}.self_attn.k_proj.weight",
        "model.layers.{}.self_attn.v_proj.weight",
    ),
    "blocks.{}.mixing.query_norm.weight": ("model.layers.{}.self_attn.q_norm.weight",),
    "blocks.{}.mixing.key_norm.weight": ("model.layers.{}.self_attn.k_norm.weight",),
    "blocks.{}.mixing.to_output.weight": ("model.layers.{}.self_attn.o_proj.weight",),
    "blocks.{}.feedforward_norm.weight": ("model.layers.{}.post_attention_layernorm.weight",),
    "blocks.{}.feedforward.to_gate_and_value.weight": (
        "model.layers.{}.mlp.gate_proj.weight",
        "model.layers.{}.mlp.up_proj.weight",
    ),
    "blocks.{}.feedforward.to_output.weight": ("model.layers.{}.mlp.down_proj.weight",),
    "final_norm.weight": ("model.norm.weight",),
}
HEAD = "lm_head.weight"

# model_type of a config -> class, and what such a config must say for ours to compute the same.
CLASSES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
REQUIRED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "use_sliding_window": False,
}


def arguments_of(transformer: Transformer) -> dict[str, int | float | bool]:
    """What a Transformer with the same results was built with (dropout, which changes nothing here, left out)."""
    attention, feedforward = transformer.blocks[0].mixing, transformer.blocks[0].feedforward
    return {
        "vocab_size": transformer.embedding.num_embeddings,
        "width": transformer.width,
        "depth": len(transformer.blocks),
        "heads": attention.heads,
        "kv_heads": attention.kv_heads,
        "head_width": attention.head_width,
        "feedforward_width": feedforward.to_output.in_features,
        "rope_theta": float(transformer.rotation.theta),
        "norm_eps": float(transformer.final_norm.eps),
        "qk_norm": isinstance(attention.query_norm, torch.nn.RMSNorm),
        "max_seq_len": transformer.max_seq_len,
    }


def config_of(transformer: Transformer, *, tied: bool) -> dict[str, object]:
    """The values of config.json. tied: the head is the embedding."""
    ours = arguments_of(transformer)
    model_type = "qwen3" if ours["qk_norm"] else "llama"
    values = {
        "model_type": model_type,
        "architectures": [CLASSES[model_type]],
        "vocab_size": ours["vocab_size"],
        "hidden_size": ours["width"],
        "num_hidden_layers": ours["depth"],
        "num_attention_heads": ours["heads"],
        "num_key_value_heads": ours["kv_heads"],
        "head_dim": ours["head_width"],
        "intermediate_size": ours["feedforward_width"],
        "rms_norm_eps": ours["norm_eps"],
        "rope_parameters": {"rope_type": "default", "rope_theta": ours["rope_theta"]},
        "max_position_embeddings": ours["max_seq_len"],
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
    }
    return values if ours["qk_norm"] else values | {"mlp_bias": False}


def arguments_from_config(config: dict) -> dict[str, int | float | bool]:
    """config.json of a Llama or Qwen3 -> arguments of a Transformer that computes the same.

    Raises ValueError where there is none, with the key that stands in the way.
    """
    model_type = config.get("model_type")
    if model_type not in CLASSES:
        raise ValueError(f"model_type is {model_type!r}; models.transformer.Transformer reads llama and qwen3")
    for key, wanted in REQUIRED.items():
        if config.get(key, wanted) not in (wanted, None):
            raise ValueError(f"{key} is {config[key]!r}; models.transformer.Transformer knows only {wanted!r}")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"rope_type is {rope['rope_type']!r}; models.transformer.Transformer knows only 'default'")
    heads = config["num_attention_heads"]
    return {
        "vocab_size": config["vocab_size"],
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_width": config.get("head_dim") or config["hidden_size"] // heads,
        "feedforward_width": config["intermediate_size"],
        "rope_theta": float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        "norm_eps": float(config["rms_norm_eps"]),
        "qk_norm": model_type == "qwen3",
        "max_seq_len": config["max_position_embeddings"],
    }


def to_llama(transformer: Transformer, head: Tensor | None = None) -> dict[str, Tensor]:
    """Weights under their names. head: (V, D), None where it is the embedding.

    Raises ValueError for a weight that Llama has no place for (an edited Transformer).
    """
    attention, feedforward = transformer.blocks[0].mixing, transformer.blocks[0].feedforward
    query, key = attention.heads * attention.head_width, attention.kv_heads * attention.head_width
    inner = feedforward.to_output.in_features
    rows = {3: (query, key, key), 2: (inner, inner)}
    theirs: dict[str, Tensor] = {}
    for name, weight in transformer.state_dict().items():
        general, layer = _general(name)
        if general not in NAMES:
            raise ValueError(f"Llama has no place for {name}")
        names = [their_name.format(layer) for their_name in NAMES[general]]
        parts = weight.split(rows[len(names)]) if len(names) > 1 else (weight,)
        # Clones: a file of safetensors takes no two views of one tensor.
        theirs |= {their_name: part.detach().clone() for their_name, part in zip(names, parts, strict=True)}
    return theirs if head is None else theirs | {HEAD: head.detach().clone()}


def from_llama(theirs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None, list[str]]:
    """Weights under their names -> the state dict of a Transformer, the head (V, D) or None, and names left over.

    A weight of ours whose parts are not all there is left out; `load_state_dict` then names it.
    """
    theirs = dict(theirs)
    head = theirs.pop(HEAD, None)
    layers = sorted({int(found[1]) for name in theirs if (found := re.match(r"model\.layers\.(\d+)\.", name))})
    ours: dict[str, Tensor] = {}
    for name, their_names in NAMES.items():
        for layer in layers if "{}" in name else [0]:
            parts = [their_name.format(layer) for their_name in their_names]
            if all(part in theirs for part in parts):
                ours[name.format(layer)] = torch.cat([theirs.pop(part) for part in parts])
    return ours, head, sorted(theirs)


def _general(name: str) -> tuple[str, str]:
    """blocks.3.mixing_norm.weight -> blocks.{}.mixing_norm.weight, 3"""
    found = re.match(r"blocks\.(\d+)\.(.*)", name)
    return (f"blocks.{{}}.{found[2]}", found[1]) if found else (name, "")
