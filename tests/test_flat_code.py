"""Our files written flat: they import each other as before, with nothing of the repository on the path."""

import subprocess
import sys
from pathlib import Path

import pytest

from training.flat_code import flatten
from utils.messages import UserError

FILES = {
    "models/__init__.py": "",
    "models/layers/rope.py": '"""Rope."""\nTURN = 3\n',
    "models/layers/norm.py": "from .rope import TURN  # a relative one\n\nSCALE = TURN + 1\n",
    "models/layers/deep/__init__.py": "from models.layers.deep.inner import INNER\n",
    "models/layers/deep/inner.py": "from ..norm import SCALE\n\nINNER = SCALE * 10\n",
    "models/layers_rope.py": "TURN = -1  # flat, this file would have the name of the other\n",
    "text/words.py": "WORD = 'wörd'\n",
    "models/mine.py": '''"""A model."""

from __future__ import annotations

import math, models.layers.norm as norm
import torch
from models import layers_rope
from models.layers import rope, norm as norm_too
from models.layers.deep import (
    INNER,  # in parentheses
)

if math.pi > 3: from text.words import WORD as word


def late() -> int:
    from .layers.rope import TURN
    return TURN


RESULT = [norm.SCALE, norm_too.SCALE, layers_rope.TURN, rope.TURN, INNER, word, late()]
''',
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "tree"


def test_flat_code_runs_without_the_repository(tree: Path, tmp_path: Path) -> None:
    source = FILES["models/mine.py"].replace("import torch\n", "")  # slow to import, and not what is tested
    code = flatten("models.mine", [tree], source=source)
    folder = tmp_path / "flat"
    folder.mkdir()
    for name, text in code.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    assert sorted(code.files) == [
        *("layers_deep_init.py", "layers_deep_inner.py", "layers_norm.py", "layers_rope.py", "layers_rope_2.py"),
        *("mine.py", "text_words.py"),
    ]
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import flat.mine; print(ascii(flat.mine.RESULT))"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ascii([4, 4, -1, 3, 40, "wörd", 3])


def test_packages_are_listed_and_comments_stay(tree: Path) -> None:
    code = flatten("models.mine", [tree])
    assert code.packages == {"torch"}
    assert "# a relative one" in code.files["layers_norm.py"]


def test_every_file_is_named_as_the_loader_of_transformers_looks_for_it(tree: Path, tmp_path: Path) -> None:
    from transformers.dynamic_module_utils import get_relative_import_files

    code = flatten("models.mine", [tree])
    for name, text in code.files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    seen = {Path(path).name for path in get_relative_import_files(tmp_path / "mine.py")}
    assert seen == set(code.files) - {"mine.py"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import models.layers.rope", "write `from models.layers import rope`"),
        ("from ...activations import ACT2FN", "write `from transformers.activations import …`"),
        ("from ... import initialization", "write `from transformers import …`"),
        ("from .nothing import X", "no models/nothing.py"),
        ("from models.layers import rope, nothing", "no nothing in models/layers"),
        ("def f(:", "not valid Python"),
    ],
)
def test_what_cannot_be_written_flat_is_named_with_its_line(tree: Path, line: str, message: str) -> None:
    (tree / "models/bad.py").write_text(f'"""Bad."""\n{line}\n')
    with pytest.raises(UserError, match=r"bad\.py:2: ") as error:
        flatten("models.bad", [tree])
    assert message in str(error.value)
