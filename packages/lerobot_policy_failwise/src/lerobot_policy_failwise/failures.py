"""Batches of what went wrong: frames of failed episodes, prepared as the policy's own batches are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata
from torch.utils.data import DataLoader, SubsetRandomSampler

from lerobot_policy_failwise.options import DualHeads

IS_FAILURE, SUCCESS, EPISODE = "failure.is_failure", "next.success", "episode_index"


class FailureBatches:
    """An endless stream of batches of failed frames.

    Args:
        config: the policy's configuration. before: the pre-processor of its batches.

    Raises:
        ValueError: the dataset says of no episode whether it failed, or none did, or its action has another width.
    """

    def __init__(self, config: Any, before: Any) -> None:
        self._before = before
        folder = Path(config.failures_root or config.failures)
        where: dict[str, Any] = {"repo_id": config.failures}
        if folder.is_dir():
            where = {"repo_id": f"local/{folder.name}", "root": folder}
        meta = LeRobotDatasetMetadata(**where)
        width = meta.features["action"]["shape"][0]
        if width != config.action_feature.shape[0]:
            raise ValueError(
                f"--policy.failures {config.failures} has actions of {width} numbers, the policy gives "
                f"{config.action_feature.shape[0]}"
            )
        self._data = LeRobotDataset(**where, delta_timestamps=resolve_delta_timestamps(config, meta))
        rows = failed_rows(self._data, config)
        logging.info("failure expert: %d frames of failed episodes in %s", len(rows), config.failures)
        loader = DataLoader(
            self._data,
            batch_size=min(config.negative_batch, len(rows)),
            sampler=SubsetRandomSampler(rows),
            drop_last=True,
        )
        self._stream = self._endless(loader)

    def next(self) -> dict[str, Any]:
        """The next batch, ready for the policy."""
        done: dict[str, Any] = self._before(next(self._stream))
        return done

    @staticmethod
    def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
        while True:
            yield from loader


def failed_rows(data: LeRobotDataset, options: DualHeads) -> list[int]:
    """Rows of failed episodes, or of their ends.

    An episode failed where its ``failure.is_failure`` says so, else where ``next.success`` never holds.

    Raises:
        ValueError: there is no such column, or no failed episode.
    """
    table = data.hf_dataset.with_format("numpy")
    episode = np.asarray(table[EPISODE]).reshape(-1)
    said = [name for name in (IS_FAILURE, SUCCESS) if name in data.features]
    if not said:
        raise ValueError(
            f"--policy.failures {options.failures} has neither {IS_FAILURE!r} nor {SUCCESS!r}: "
            "nobody knows what failed; 'failwise store export RUN --lerobot DIR' writes such a dataset"
        )
    told = np.asarray(table[said[0]]).reshape(-1).astype(bool)
    rows: list[int] = []
    for number in np.unique(episode):
        own = np.flatnonzero(episode == number)
        if told[own].any() == (said[0] == IS_FAILURE):
            rows += own[-options.failure_tail :].tolist() if options.failure_tail else own.tolist()
    if not rows:
        raise ValueError(
            f"--policy.failures {options.failures} holds no failed episode: there is nothing to steer away from"
        )
    return rows
