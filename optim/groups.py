"""A model -> the groups in which its weights are updated: those that decay and those that do not."""

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float, decay_embeddings: bool = False) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and other vectors never; embeddings only with `decay_embeddings`.

    A head that shares its weight with an embedding counts as the embedding. Frozen weights are in no group.

    Returns:
        one or two groups for a torch optimizer, in the model's order of parameters
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decaying, others = [], []
    for parameter in model.parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and (decay_embeddings or id(parameter) not in embeddings)
            (decaying if decays else others).append(parameter)
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
