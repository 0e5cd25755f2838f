"""What is predicted, one file each. A name in a config is a file here, or an import path."""

from typing import Any

from objectives.facts import Objective, VocabularyFacts
from utils.imports import import_object


def build_objective(name: str, arguments: dict[str, Any], facts: VocabularyFacts) -> Objective:
    """`masked` -> objectives.masked.Masked, `span_corruption` -> objectives.span_corruption.SpanCorruption."""
    if "." not in name:
        name = f"objectives.{name}.{''.join(word.capitalize() for word in name.split('_'))}"
    return import_object(name)(facts, **arguments)
