"""Imports Lightning without what its torchmetrics imports for metrics that nobody asked for.

transformers (for BERTScore) and matplotlib (for plots) cost a second of every start. Both stay importable for everyone
else; where code of the user's may want such a metric, nothing is left out.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

LEFT_OUT = ("transformers", "matplotlib")


def import_lightning(users_code: Sequence[Path] = ()) -> None:
    """users_code: files; where one of them names torchmetrics, it is imported whole."""
    if "pytorch_lightning" in sys.modules or any("torchmetrics" in path.read_text() for path in users_code):
        return
    from lightning_utilities.core.imports import RequirementCache

    honest = RequirementCache.__bool__

    def lean(requirement: RequirementCache) -> bool:
        return not str(requirement.requirement).startswith(LEFT_OUT) and honest(requirement)

    RequirementCache.__bool__ = lean  # type: ignore[method-assign]
    try:
        import pytorch_lightning  # noqa: F401
    finally:
        RequirementCache.__bool__ = honest  # type: ignore[method-assign]
