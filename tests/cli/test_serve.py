"""``failwise serve`` as a process: up, asked, evaluated against, and down again."""

import http.client
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from failwise.cli import main
from processes import start

EVALUATE = ["evaluate", "--env", "tiny/reach", "--seeds", "4", "--workers", "1"]
FAILWISE = str(Path(sys.executable).parent / "failwise")


@contextmanager
def serving(*options: str, ignoring: Sequence[signal.Signals] = ()):
    """The process, and the port that it says it listens at."""
    command = [FAILWISE, "serve", "--policy", "random:3", "--port", "0", *options]
    process = start(command, ignoring, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"evaluate --policy openpi:ws://127\.0\.0\.1:(\d+) ", line):
                break
        assert found, process.stderr.read()
        yield process, int(found[1]), lines
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_a_server_is_evaluated_and_ends_at_ctrl_c(tmp_path):
    with serving() as (process, port, lines):
        assert lines.pop(2) == "warmed up in 0.0 s\n"
        assert lines[:2] == [
            "serving random:3: chunks of 8 x 3\n",
            "keys of an observation: prompt (not read by this policy: observation/state)\n",
        ]
        web = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        web.request("GET", "/healthz")
        assert web.getresponse().status == 200
        web.close()
        address = f"openpi:ws://127.0.0.1:{port}"
        evaluate = [
            "evaluate",
            "--policy",
            address,
            "--env",
            "tiny/reach",
            "--seeds",
            "4",
            "--out",
            str(tmp_path / "run"),
        ]
        assert main([*evaluate, "--workers", "1"]) == 0
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""
    first, waits = out.splitlines()
    inferences, clients = map(int, re.fullmatch(r"served (\d+) inferences to (\d+) clients; refused 0", first).groups())
    assert re.fullmatch(r"waits for a turn: \d+ ms on average, \d+ ms at most; told busy: 0", waits)
    assert inferences > 4 and clients == 2, "one that asked whether it fits, and one that acted"


def test_a_client_that_is_there_does_not_keep_it_from_ending():
    from failwise.policies.remote import RemotePolicy

    with serving() as (process, port, _):
        policy = RemotePolicy(f"ws://127.0.0.1:{port}")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0 and policy.spec.action_dim == 3


def test_a_server_in_the_background_is_not_ended_by_a_ctrl_c_that_is_not_meant_for_it():
    with serving(ignoring=[signal.SIGINT]) as (process, port, _):
        process.send_signal(signal.SIGINT)
        web = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        web.request("GET", "/healthz")
        assert web.getresponse().status == 200
        web.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


CASES = {
    "a port that is none": ("--port 70000", "--port 70000 is no port"),
    "no such policy": ("--policy models/nowhere", "no policy folder 'models/nowhere'"),
    "an expert": ("--policy expert", "serve a policy"),
    "two tokens": ("--token a --token-file b", "not both"),
    "no token in the file": ("--token-file nowhere", "no token can be read from nowhere"),
    "a monitor that is not there": ("--monitor nowhere", "--monitor nowhere is not a folder"),
    "a diagnoser that is not there": ("--diagnoser nowhere", "--diagnoser nowhere is not a folder"),
    "keys that are not there": ("--keys nowhere.json", "neither a file nor one of"),
    "steering of a policy without sampling": ("--steer none,afil", "gives no denoising to steer"),
    "unknown steering": ("--steer nosuch", "unknown steering 'nosuch'"),
    "a message size of nothing": ("--max-message-mb 0", "--max-message-mb 0 must lie between"),
    "no queue": ("--queue 0", "--queue 0 must be 1 to"),
    "a wait below 0": ("--max-wait -1", "--max-wait -1 must lie between 0 and 3600 seconds"),
    "a seed below 0": ("--seed -1", "--seed -1 must not be negative"),
    "a host that is not of this machine": ("--host 192.0.2.1 --token x", "cannot listen on 192.0.2.1"),
}


@pytest.mark.parametrize(("options", "said"), CASES.values(), ids=CASES)
def test_what_a_user_can_get_wrong_is_one_line(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = options.split()
    policy = [] if "--policy" in given else ["--policy", "random:3"]
    assert main(["serve", *policy, *given]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and said in err


def test_no_server_is_one_line(tmp_path, capsys):
    address = "openpi:ws://127.0.0.1:1?connect=0.1"
    command = [
        "evaluate",
        "--policy",
        address,
        "--env",
        "tiny/reach",
        "--seeds",
        "2",
        "--out",
        str(tmp_path),
        "--workers",
        "1",
    ]
    assert main(command) == 2
    assert capsys.readouterr().err == (
        "failwise: no policy server at ws://127.0.0.1:1; start one with: failwise serve --policy FOLDER\n"
    )
