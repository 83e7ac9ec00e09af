"""One client's episodes: where it is, its noise, its monitor. Knows no sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from failwise.detect import Moment
from failwise.errors import DataError, WireError
from failwise.serve.explaining import Explaining
from failwise.wire.keys import NOTICE, OWN, RESET, SEED, STEP, TASK, WANT, KeyMap

if TYPE_CHECKING:
    from failwise.agent import PolicyAgent
    from failwise.detect import Monitor
    from failwise.diagnose import Classifier
    from failwise.serve.resizing import Resizing
    from failwise.types import ActionChunk, Observation, Verdict

_KNOWN = (RESET, SEED, STEP, TASK, WANT, NOTICE)
_WANTED = ("features",)
_LONGEST = 10**6  # steps of an episode
_SEEDS = 2**40
_FARTHEST = 1000  # steps between two questions: a monitor walks through all of them


class Session:
    """What one client talks to. Questions come one after another.

    A connection begins an episode, and so does a message with ``failwise/reset``. Between two inferences the client is
    taken to have executed ``execute`` actions, unless it says with ``failwise/step`` at which step it is.

    Args:
        number: of the client.
        agent: with a memory of its own.
        execute: actions of a chunk that are executed before the next inference, if the client says nothing else.
        keys: of observations.
        monitor: of its own, or None. diagnoser: what says why, or None.
        seed: of the noise, together with number and episode, where the client gives none.
        resizing: of images to the policy's size; None leaves them as they come.
    """

    def __init__(
        self, number: int, agent: PolicyAgent, execute: int, keys: KeyMap, monitor: Monitor | None = None,
        diagnoser: Classifier | None = None, seed: int = 0, resizing: Resizing | None = None,
    ) -> None:  # fmt: skip
        self.number, self.agent, self.execute, self.keys = number, agent, execute, keys
        self.monitor, self.seed, self.resizing = monitor, seed, resizing
        self.explaining = Explaining(diagnoser)
        self.episode, self.inferences = -1, 0

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to one observation: ``actions`` float32 (H, A), ``server_timing``, and our own under ``failwise``.

        Raises:
            WireError: a key is missing, unknown, or of another kind.
            DataError: a camera or the state is of another size than the policy's.
            EpisodeError: the policy gave a number that is not finite.
        """
        start = time.perf_counter()
        own = _own(message)
        observation = self._resized(self.keys.read(message))
        if self.episode < 0 or own.get(RESET, False):
            self._begin(own)
        if own.get(NOTICE, False):
            return self._notice(observation)
        step = own.get(STEP, 0 if self._chunk is None else self._step + self.execute)
        if self._chunk is not None and not 0 < step - self._step <= _FARTHEST:
            allowed = f"1 to {_FARTHEST} above the last one, {self._step}"
            raise WireError(f"{STEP} must be {allowed}, got {step}; {RESET} begins an episode")
        with self._in_the_clients_words(observation):
            chunk = self.agent.act(observation)
        verdict = self._watch(step, chunk)
        self._step, self._chunk = step, chunk
        self.inferences += 1
        said = self._said(chunk, verdict, own.get(WANT, ()))
        elapsed = time.perf_counter() - start
        return {"actions": chunk.actions, "server_timing": {"infer_ms": 1000 * elapsed}, "failwise": said}

    def rehearse(self, observation: Observation) -> None:
        """One inference of no client's, through policy, steering and monitor; the session is of no use afterwards.

        Raises:
            FailwiseError: the policy does not take the observation.
        """
        self._begin({})
        self._watch(0, self.agent.act(observation))

    def _resized(self, observation: Observation) -> Observation:
        return observation if self.resizing is None else self.resizing(observation)

    @contextmanager
    def _in_the_clients_words(self, observation: Observation) -> Iterator[None]:
        """What the policy does not take of an observation is told under the client's own key."""
        try:
            yield
        except DataError as error:
            if self.resizing is None:
                raise
            raise self.resizing.explained(error, observation) from error

    def _notice(self, observation: Observation) -> dict[str, Any]:
        """Show an observation to a policy that looks back; any other one has no use for it."""
        if self.agent.policy.spec.history > 1:
            with self._in_the_clients_words(observation):
                self.agent.notice(observation)
        return {"failwise": {"episode": self.episode, "step": self._step}}

    def _begin(self, own: Mapping[str, Any]) -> None:
        self.episode += 1
        drawn = np.random.SeedSequence([self.seed, self.number, self.episode]).generate_state(1)[0]
        self._noise_seed = int(own.get(SEED, drawn))
        self.agent.begin(None, self._noise_seed)
        if self.monitor is not None:
            self.monitor.reset(own.get(TASK, ""))
        self.explaining.begin()
        self._step, self._chunk = 0, None

    _chunk: ActionChunk | None = None
    _step: int = 0

    def _watch(self, step: int, chunk: ActionChunk) -> Verdict | None:
        """The monitor's word now, after the steps on which the client executed the last chunk's further actions."""
        if self.monitor is None:
            return None
        if self._chunk is not None:
            last = self._chunk.actions
            for ahead in range(1, step - self._step):
                self.monitor.update(Moment(self._step + ahead, last[min(ahead, len(last) - 1)]))
        moment = Moment(step, chunk.actions[0], chunk.features, chunk.samples, chunk.info)
        self.explaining.see(chunk.features)
        return self.monitor.update(moment)

    def _said(self, chunk: ActionChunk, verdict: Verdict | None, wanted: Any) -> dict[str, Any]:
        said: dict[str, Any] = {
            "episode": self.episode,
            "step": self._step,
            "seed": self._noise_seed,
            "info": {name: float(value) for name, value in chunk.info.items()},
        }
        if "features" in wanted and chunk.features is not None:
            said["features"] = chunk.features
        if verdict is not None and self.monitor is not None:
            said |= {
                "score": float(verdict.score),
                "band": float(verdict.band),
                "alarm": verdict.alarm,
                "alarm_step": self.monitor.alarmed_at,
            }
            if verdict.alarm and (diagnosis := self.explaining.diagnosis()) is not None:
                said["diagnosis"] = diagnosis
        return said


def _own(message: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of ours in a message, each of its kind.

    Clients write numbers as numpy has them (``np.int64(7)``, ``np.bool_(True)``, or an array without axes), so these
    count as the Python numbers that they stand for.

    Raises:
        WireError: one is unknown or of another kind.
    """
    kinds: dict[str, tuple[Callable[[Any], bool], str]] = {
        RESET: (lambda v: isinstance(v, bool), "true or false"),
        NOTICE: (lambda v: isinstance(v, bool), "true or false"),
        SEED: (lambda v: type(v) is int and 0 <= v < _SEEDS, f"a whole number from 0 to {_SEEDS - 1}"),
        STEP: (lambda v: type(v) is int and 0 <= v <= _LONGEST, f"a whole number from 0 to {_LONGEST}"),
        TASK: (lambda v: isinstance(v, str) and len(v) <= 200, "text"),
        WANT: (lambda v: isinstance(v, list) and all(one in _WANTED for one in v), f"a list of {', '.join(_WANTED)}"),
    }
    own = {}
    for key, sent in message.items():
        if not key.startswith(OWN):
            continue
        if key not in kinds:
            raise WireError(f"unknown key {key[:80]!r}; known: {', '.join(_KNOWN)}")
        fits, kind = kinds[key]
        value = _plain(sent)
        if not fits(value):
            raise WireError(f"{key!r} must be {kind}, got {_with_type(sent)}")
        own[key] = value
    return own


def _plain(value: Any) -> Any:
    """A numpy number, or an array that holds one without an axis, as Python's; anything else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def _with_type(value: Any) -> str:
    """``-1 (int)``, ``2.5 (float64)``, ``array of int64 (3,)``: what was sent, and of which type it is."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"array of {value.dtype} {value.shape}"
    kind = value.dtype.name if isinstance(value, np.generic | np.ndarray) else type(value).__name__
    return f"{str(value)[:40]!r} ({kind})"
