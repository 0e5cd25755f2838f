"""metrics.jsonl -> a picture of the run's curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def draw_curves(lines: Sequence[Line], path: Path, title: str) -> None:
    """Loss, learning rate, gradient norm and throughput over steps.

    lines: of metrics.jsonl, each step once (utils.run_directory.read_metrics)
    """
    import matplotlib  # only here: it takes a while, and training does without

    matplotlib.use("Agg")
    from matplotlib import pyplot

    training = sorted((line for line in lines if line["kind"] == "train"), key=lambda line: line["step"])
    validation = sorted((line for line in lines if line["kind"] == "validation"), key=lambda line: line["step"])
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), sharex=True, layout="constrained")
    loss, rate, norm, speed = axes.flat
    _curve(loss, training, "loss", label="training", color="C0", alpha=0.6, linewidth=1)
    for number, name in enumerate(dict.fromkeys(line["set"] for line in validation), start=1):
        of_set = [line for line in validation if line["set"] == name]
        _curve(loss, of_set, "loss", label=name, color=f"C{number}", marker="o", markersize=3)
    loss.set(title="loss", ylabel="nats a token")
    if training or validation:
        loss.legend()
    _curve(rate, training, "learning_rate", color="tab:green")
    rate.set(title="learning rate")
    _curve(norm, training, "grad_norm", color="tab:red", linewidth=1)
    norm.set(title="norm of the gradient, before clipping", xlabel="step")
    _curve(speed, training, "tokens_per_second", color="tab:purple", linewidth=1)
    speed.set(title="throughput", ylabel="tokens a second", xlabel="step")
    speed.set_ylim(bottom=0)
    for one in axes.flat:
        one.grid(alpha=0.3)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _curve(axis: Any, lines: Sequence[Line], key: str, **style: Any) -> None:
    points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), **style)
