"""The results of finished nodes, as a working directory refers to them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msm_jax.evals import labels
from msm_jax.evals.labels import Labels
from msm_jax.experiments.config import substitute
from msm_jax.experiments.context import found_path
from msm_jax.experiments.nodes.interface import DONE
from msm_jax.foundation import storage
from msm_jax.training import goodput


class Finished:
    """The results that a working directory refers to; reads them by node."""

    def __init__(self, record: Mapping[str, Any], workdir: Path) -> None:
        """Takes the content of `nodes.json` and the directory in which it lies."""
        self._paths = {node["id"]: found_path(node["path"], workdir) for node in record["nodes"] if node["path"]}
        self._evals = {
            node: {name: found_path(path, workdir) for name, path in paths.items()}
            for node, paths in record["evals"].items()
        }
        self._labels: dict[str, Labels] = {}

    def directory(self, node_id: str) -> Path:
        """Returns the directory of a finished node that has one result.

        Raises:
            KeyError: the node has no result.
        """
        return self._paths[node_id]

    def phase(self, node_id: str) -> dict[str, Any] | None:
        """Returns the result of a finished training run."""
        done = storage.find_json(self._paths[node_id] / DONE) if node_id in self._paths else None
        return None if done is None else done["result"]

    def manifest(self, node_id: str) -> dict[str, Any]:
        """Returns the manifest of a training run; empty where there is none."""
        path = self._paths.get(node_id)
        return (storage.find_json(path / "manifest.json") if path else None) or {}

    def tokens(self, node_id: str, step: int | None) -> int | None:
        """Returns the tokens that a finished training run had read by a step, or by its end for None."""
        result = self.phase(node_id)
        if result is None or step is None:
            return None if result is None else result["tokens"]
        from msm_jax.checkpoints import store

        checkpoint = store.at_step(self._paths[node_id], step)
        return None if checkpoint is None else store.read_info(checkpoint)["totals"]["tokens"]

    def evaluation(self, node_id: str, name: str) -> dict[str, Any] | None:
        """Returns the result of one eval of one checkpoint."""
        path = self._evals.get(node_id, {}).get(name)
        stored = storage.find_json(path) if path else None
        return None if stored is None else stored["result"]

    def source(self, node_id: str, name: str) -> Path:
        """Returns the file of a result that `evaluation` finds."""
        return self._evals[node_id][name]

    def labels(self, path: str, items: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]] | None:
        """Returns the labels of items that were scored; see `labels.of_scored`. `path` is that of the config."""
        path = substitute(path, {name: str(at) for name, at in self._paths.items()})
        return labels.of_scored(items, path, self._read_labels)

    def _read_labels(self, path: str) -> Labels:
        if path not in self._labels:
            self._labels[path] = labels.read(path)
        return self._labels[path]

    def curve(self, node_id: str) -> list[dict[str, float]]:
        """Returns step, loss and learning rate of a training run up to its last step so far."""
        if node_id not in self._paths:
            return []
        points: dict[int, dict[str, float]] = {}
        for row in _json_lines(self._paths[node_id] / "metrics.jsonl"):
            if "step" in row and isinstance(row.get("loss"), (int, float)):
                # A run that was continued may have written a step twice; the later row counts.
                points[row["step"]] = {
                    key: row[key] for key in ("step", "loss", "learning_rate") if row.get(key) is not None
                }
        return [points[step] for step in sorted(points)]

    def seconds(self, node_id: str) -> dict[str, float]:
        """Returns where the time of a training run went, by `training.goodput`; empty where that is not known."""
        return goodput.summary(self._paths[node_id]) if node_id in self._paths else {}

    def environment(self) -> dict[str, Any]:
        """Returns versions and device from the first manifest of a training run."""
        for path in self._paths.values():
            manifest = storage.find_json(path / "manifest.json")
            if manifest is not None:
                return {**manifest["versions"], "device": manifest["device_kind"]}
        return {}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the complete rows of a JSONL file; the last one may be cut off where its writer was stopped."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
