"""Sample run folders, as the engine leaves them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dljax import report

ENVIRONMENT = {"dljax": "0.1.0", "python": "3.11.7", "jax": "0.10.2", "platform": "cpu", "devices": 2, "device_kind": "cpu"}
SPEED = {
    "seconds": 187.4,
    "compile_seconds": 4.21,
    "recompilations": 0,
    "steps_per_second": 25.0,
    "units_per_second": 3202.7,
    "flops_per_step": 6.1e9,
    "achieved_flops": 1.53e11,
    "peak_flops": 4.7e11,
    "peak_share": 0.325,
    "memory_bytes": {"params": 1_687_592, "state": 5_062_776, "peak": 402_653_184},
}


def _write(folder: Path, config: dict, metrics: list, evaluations: list, result: dict | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"format": 1, **config}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in evaluations))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def classifier_run(tmp_path: Path, classifier_template: Path) -> Path:
    """A finished run with predictions, a confusion matrix and a table."""
    return shutil.copytree(classifier_template, tmp_path / classifier_template.name)


@pytest.fixture
def sweep_run(tmp_path: Path, sweep_template: Path) -> Path:
    """Three learning rates by four seeds of an agent whose return is null where no episode ended; one member went non-finite."""
    return shutil.copytree(sweep_template, tmp_path / sweep_template.name)


@pytest.fixture(scope="session")
def classifier_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    steps = np.arange(47, 4701, 47)
    loss = 2.3 * np.exp(-steps / 300) + 0.25 * np.exp(-steps / 4000) + 0.02 * rng.standard_normal(100)
    accuracy = 0.94 - 0.8 * np.exp(-steps / 350) + 0.008 * rng.standard_normal(100)
    rate = 1e-3 * np.cos(np.pi * steps / 9420) ** 2 + 1e-6
    metrics = [
        {"step": int(t), "loss": float(a), "accuracy": float(b), "learning_rate": float(c)}
        for t, a, b, c in zip(steps, loss, accuracy, rate, strict=True)
    ]
    evaluations = [{"step": t, "accuracy": 0.921 - 0.5 * np.exp(-t / 500), "loss": 0.23 + 1.5 * np.exp(-t / 400)} for t in range(470, 4701, 470)]
    options = {"width": 32, "learning_rate": 0.001, "batch_size": 128, "optimizer": {"name": "adamw", "weight_decay": 1e-4}, "augment": True}
    config = {
        "recipe": "fashion-mnist/cnn",
        "options": options,
        "seed": 0,
        "steps": 4700,
        "every": 47,
        "environment": ENVIRONMENT,
        "created": "2025-06-01T12:00:00Z",
    }
    target = {"metric": "accuracy", "op": ">=", "value": 0.91, "source": "Xiao, Rasul and Vollgraf (2017), benchmark of two-layer CNNs"}
    result = {
        "status": "done",
        "step": 4700,
        "unit": "examples",
        "measured": {"accuracy": 0.9212, "expected_calibration_error": 0.0113},
        "target": target,
        "message": "",
    }
    folder = _write(tmp_path_factory.mktemp("runs") / "20250601-fashion", config, metrics, evaluations, result | SPEED)

    height, width = np.mgrid[:28, :28] / 27
    shapes = [np.clip(1.2 - 2.2 * np.hypot(height - y, (width - x) * s), 0, 1) for x, y, s in rng.uniform(0.35, 0.65, (24, 3)) * [1, 1, 2]]
    names = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
    labels = [f"{names[i % 10]} ✓" if i % 7 else f"{names[i % 10]} ✗\nis {names[(i + 4) % 10]}" for i in range(24)]
    confusion = np.eye(10) * 0.88 + rng.uniform(0, 0.025, (10, 10))

    def draw(axes):
        picture = axes.imshow(confusion)
        axes.grid(False)
        axes.set_xticks(range(10), names, rotation=45, ha="right")
        axes.set_yticks(range(10), names)
        axes.set(xlabel="predicted", ylabel="true class")
        axes.figure.colorbar(picture, label="share of the true class")

    def reliability(axes):
        axes.plot([0, 1], [0, 1], "--", color="#999999", label="calibrated")
        axes.plot(np.linspace(0.05, 0.95, 10), np.linspace(0.05, 0.95, 10) ** 1.2, "o-", label="this model")
        axes.set(xlabel="confidence", ylabel="accuracy")
        axes.legend()

    rows = [{"class": name, "precision": 0.8 + 0.015 * i, "recall": 0.95 - 0.01 * i, "pictures": 1000} for i, name in enumerate(names)]
    figures = {
        "predictions": report.grid(np.stack(shapes), "Pictures of the test set with what the network says", labels),
        "filters": report.grid(rng.uniform(0, 1, (32, 5, 5)), "The 32 filters of the first layer"),
        "confusion": report.plot(draw, "Where the classes are confused"),
        "reliability": report.plot(reliability, "Confidence against accuracy"),
        "hardest": report.image(shapes[3], "The picture with the highest loss"),
        "classes": report.table(rows, "Precision and recall of each class"),
    }
    report.save_figures(folder, figures)
    return folder


@pytest.fixture(scope="session")
def sweep_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    members = [{"learning_rate": rate, "num_envs": 8, "seed": seed} for rate in (1e-4, 3e-4, 3e-3) for seed in range(4)]
    metrics, evaluations = [], []
    for report_index, step in enumerate(range(2, 245, 2)):
        pace = np.repeat([0.006, 0.016, 0.05], 4)
        returns = 500 / (1 + 24 * np.exp(-pace * 2 * step)) + 14 * rng.standard_normal(12)
        loss = 60 * np.exp(-pace * step) + 0.02 * rng.exponential(1, 12)
        row = [None if report_index % 9 == 4 else float(value) for value in returns]
        losses = [float(value) for value in loss]
        if step > 120:
            row[9] = losses[9] = None
        metrics.append({"step": step, "return": row, "value_loss": losses, "entropy": [float(v) for v in 0.69 * np.exp(-pace * step / 3)]})
        if step % 24 == 0:
            evaluations.append(
                {"step": step, "return": [None if v is None else min(500.0, v + 8) for v in (row if row[0] is not None else returns.tolist())]}
            )
    config = {
        "recipe": "cartpole/ppo",
        "options": {"num_envs": 8, "discount": 0.99},
        "seed": 0,
        "steps": 244,
        "every": 2,
        "environment": ENVIRONMENT,
        "members": members,
    }
    target = {"metric": "return", "op": ">=", "value": 475, "source": "Gymnasium's reward threshold of CartPole-v1"}
    message = "Member 9 (learning_rate 0.003, seed 1) went non-finite at step 121; the others went on."
    result = {"status": "done", "step": 244, "unit": "frames", "measured": {}, "target": target, "message": message}
    folder = _write(
        tmp_path_factory.mktemp("runs") / "20250601-cartpole",
        config,
        metrics,
        evaluations,
        result | SPEED | {"flops_per_step": None, "achieved_flops": None, "peak_share": None},
    )
    frames = np.full((48, 120, 180, 3), 250, np.uint8)
    for t, frame in enumerate(frames):
        cart, angle = 90 + int(40 * np.sin(t / 48 * 2 * np.pi)), 0.2 * np.sin(t / 24 * 2 * np.pi)
        frame[96:98] = 90
        frame[84:96, cart - 14 : cart + 14] = (0, 114, 178)
        for length in range(60):
            x, y = cart + int(length * np.sin(angle)), 84 - int(length * np.cos(angle))
            frame[y : y + 2, x - 2 : x + 2] = (213, 94, 0)
    report.save_figures(folder, {"rollout": report.animation(frames, "One episode of the last policy", fps=24)})
    return folder
