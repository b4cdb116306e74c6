"""Where a sweep computes: several GPUs of this machine, and a Ray cluster; the results are the same to the bit."""

from __future__ import annotations

import importlib
import json
import math
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runner_folder import CELLS, write_cells
from sweep_cells import found

from armory_mdnf import cli
from armory_mdnf.errors import OptionError, ResultsError
from armory_mdnf.evaluation.armory_results import read_armory_results
from armory_mdnf.runner import machine, sweep_engine, sweep_places, sweep_plan, sweep_ray
from armory_mdnf.runner.machine import GIB
from armory_mdnf.runner.named import own_code
from armory_mdnf.runner.sweep_engine import Processes, visible

pytestmark = pytest.mark.usefixtures("closes_files")


@pytest.fixture(autouse=True)
def kept_state() -> Any:
    threads, folder = torch.get_num_threads(), os.getcwd()
    yield
    torch.set_num_threads(threads)
    os.chdir(folder)
    sweep_engine._evaluation.cache_clear()


@pytest.fixture
def grid(config: dict[str, Any], tmp_path: Path) -> list[str]:
    """Two cells of three utterances."""
    return write_cells(config, tmp_path, "[13:16]")


def sweep(grid: list[str], out: Path, *options: str) -> int:
    return cli.main(["sweep", *grid, "--output-dir", str(out), *options])


@pytest.mark.parametrize(
    ("device", "inherited", "seen"),
    [("cuda:0", None, "0"), ("cuda:3", None, "3"), ("cuda:1", "2,5", "5"), ("cuda:0", "GPU-abc, GPU-def", "GPU-abc")],
)
def test_a_process_sees_one_of_the_gpus_that_the_sweep_sees(device: str, inherited: str | None, seen: str) -> None:
    assert visible(device, inherited) == seen


def test_a_gpu_that_is_hidden_is_refused() -> None:
    with pytest.raises(OptionError, match="cuda:2 is none of the 2 that CUDA_VISIBLE_DEVICES leaves"):
        visible("cuda:2", "0,1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "cpu"], "--devices: expected devices such as cuda:0,cuda:1, got 'cpu'"),
        (["--devices", "cuda:0,"], "--devices: expected devices such as cuda:0,cuda:1, got ''"),
        (["--devices", "cuda:" + "9" * 5000], "--devices: expected devices such as cuda:0,cuda:1, got 'cuda:999"),
        (["--devices", "cuda:0,cuda:0"], "--devices: cuda:0 is there twice"),
        (["--devices", "cuda:0,cuda:2"], "--devices: torch finds no cuda:2 here, but 2 CUDA devices"),
        (["--devices", "cuda:0", "--device", "cpu"], "--devices are GPUs: expected no --device cpu"),
        (["--devices", "cuda:0", "--engine", "ray"], "--devices has no effect with --engine ray"),
        (["--address", "auto"], "--address is of a Ray cluster: it needs --engine ray"),
    ],
)
def test_options_are_refused(
    grid: list[str], tmp_path: Path, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert sweep(grid, tmp_path / "runs", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_processes_are_counted_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, Any]] = []
    monkeypatch.setattr(sweep_places, "engine", lambda number, devices: made.append((number, devices)))
    place = sweep_places.Local(3, ["cuda:0", "cuda:1"])
    assert place.choose([], on_gpu=True, memory=0) == (6, 2.0)
    place.start(6)
    assert made == [(3, ["cuda:0", "cuda:1"])]
    assert sweep_places.Local(None, ["cuda:1"]).choose([], on_gpu=True, memory=0) == (1, 1.0)
    assert isinstance(sweep_engine.engine(1, ()), sweep_engine.Here)


@pytest.mark.parametrize(
    ("cores", "free_gib", "tried", "chosen"),
    [
        (1, 99, [], 1),
        (2, 99, [1, 2], 2),
        (6, 99, [1, 2, 4, 6], 4),
        (8, 99, [1, 2, 4, 8], 4),
        (8, 4.5, [1, 2, 4], 4),
        (8, 1.5, [], 1),
    ],
)
def test_the_fastest_number_is_taken_that_cores_and_memory_allow(
    cores: int, free_gib: float, tried: list[int], chosen: int, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    seen: list[int] = []

    def measured(number: int, tasks: Any) -> float:
        seen.append(number)
        return {1: 0.5, 2: 0.9, 4: 1.5}.get(number, 1.2)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(sweep_places, "free_memory", lambda: free_gib * GIB)
    monkeypatch.setattr(sweep_places, "measured", measured)
    found = sweep_places.Local(None).choose([sweep_engine.Task(0, "{}", (0,), 1)], on_gpu=False, memory=GIB)
    assert found == (chosen, pytest.approx({1: 1.0, 2: 1.8, 4: 3.0}[chosen]))
    assert seen == tried
    err = capsys.readouterr().err
    assert ("processes would hold" in err) is (free_gib < cores)
    if free_gib == 4.5:
        assert err == "note: 8 processes would hold 8.0 GiB of memory, of which 4.5 GiB are free: not tried\n"


def test_memory_that_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "GROUP", tmp_path)
    assert machine.free_memory() == math.inf
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  7000 kB\nHugePages_Total:  0\n")
    assert machine.free_memory() == 7000 * 1024
    (tmp_path / "memory.current").write_text("500\n")
    (tmp_path / "memory.stat").write_text("file 300\ninactive_file 200\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory() == 7000 * 1024
    (tmp_path / "memory.max").write_text("600\n")
    assert machine.free_memory() == 600 - 500 + 200


def test_nothing_looks_at_the_gpus_before_a_process_has_its_own() -> None:
    code = (
        "import torch\n"
        "def asked(*_): raise AssertionError('CUDA was asked for')\n"
        "torch.cuda.is_available = torch.cuda.device_count = torch._C._cuda_getDeviceCount = asked\n"
        "import armory_mdnf.runner.sweep_engine"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.slow
def test_every_process_has_its_device() -> None:
    look = "[__import__('time').sleep(0.5), (o := __import__('os')).getpid(), o.environ['CUDA_VISIBLE_DEVICES']][1:]"
    running = Processes(1, ["cuda:0", "cuda:1"])
    seen: dict[int, str] = {}
    until = time.monotonic() + 300
    try:
        assert running.processes == 2
        while len(seen) < 2 and time.monotonic() < until:
            answers = [running._pool.submit(eval, look) for _ in range(2)]
            seen |= dict(answer.result(timeout=300) for answer in answers)
        assert sorted(seen.values()) == ["0", "1"]
    finally:
        running.close()


def test_without_ray_the_extra_is_named(
    grid: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert sweep(grid, tmp_path / "runs", "--engine", "ray") == 2
    assert "--engine ray needs Ray: pip install 'armory-mdnf[ray]'" in capsys.readouterr().err


def test_ray_is_loaded_only_when_it_is_asked_for() -> None:
    code = "import sys, armory_mdnf.cli, armory_mdnf.runner.sweep_ray\nassert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


class Imitation:
    """As much of Ray as the place uses, in this process. ``dies``: how many of the tasks' workers are lost."""

    class exceptions:  # noqa: N801 -- Ray's name
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            cause: Any = None

    def __init__(self, dies: int = 0, cores: int = 2) -> None:
        self.dies, self.cores = dies, cores
        self.options: list[dict[str, Any]] = []
        self.joined: dict[str, Any] | None = None
        self.most = 0

    def init(self, **options: Any) -> None:
        if options["address"] == "nowhere":
            raise ConnectionError("no cluster answers")
        self.joined = options

    def shutdown(self) -> None:
        self.joined = None

    def nodes(self) -> list[dict[str, Any]]:
        gone = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [gone, *({"Alive": True, "Resources": {"CPU": 1.0}} for _ in range(self.cores))]

    def put(self, value: Any) -> Any:
        return pickle.loads(pickle.dumps(value))

    def remote(self, function: Any) -> Any:
        outer = self

        class Remote:
            def options(self, **options: Any) -> Any:
                outer.options.append(options)
                return self

            def remote(self, *args: Any) -> Any:
                return function, pickle.dumps(args)

        return Remote()

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        assert timeout > 0
        self.most = max(self.most, len(references))
        return ([references[-1]], references[:-1]) if self.cores else ([], references)

    def get(self, reference: Any) -> Any:
        function, args = reference
        if self.dies and function is sweep_ray.performed:
            self.dies -= 1
            raise self.exceptions.RayError("the worker died")
        try:
            return pickle.loads(pickle.dumps(function(*pickle.loads(args))))
        except Exception as error:
            wrapped = self.exceptions.RayTaskError(str(error))
            wrapped.cause = error
            raise wrapped from error


@pytest.fixture
def imitated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Imitation]:
    def imitated(*args: Any, **kwargs: Any) -> Imitation:
        made = Imitation(*args, **kwargs)
        real = importlib.import_module
        monkeypatch.setattr(sweep_ray.importlib, "import_module", lambda n: made if n == "ray" else real(n))
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        return made

    return imitated


def test_a_cluster_gives_the_same_bits_and_lost_workers_are_replaced(
    grid: list[str], tmp_path: Path, imitated: Callable[..., Imitation], capsys: Any
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "runs"
    assert sweep(grid, whole, "--processes", "1") == 0
    ray = imitated(dies=2)
    assert sweep(grid, out, "--engine", "ray") == 0
    assert found(out) == found(whole)
    outcomes = [[read_armory_results(f / n / "results.json").outcomes for n in CELLS] for f in (out, whole)]
    assert outcomes[0] == outcomes[1]
    err = capsys.readouterr().err
    assert err.count("a worker was lost with utterances [") == 2
    assert "with 2 processes" in err
    assert all(o == {"num_cpus": 1, "num_gpus": 0, "max_retries": 0} for o in ray.options)
    assert ray.most == 2  # as many as the nodes that are alive have room for
    assert ray.joined is None  # it has left
    # The plan that a worker makes is the one that is made here.
    assert sweep(grid, out, "--resume", "--processes", "1") == 0


def test_a_batch_that_every_worker_dies_of_stops_the_sweep(
    grid: list[str], tmp_path: Path, imitated: Callable[..., Imitation], capsys: Any
) -> None:
    imitated(dies=99)
    assert sweep(grid, tmp_path / "runs", "--engine", "ray") == 2
    assert "a worker was lost 3 times with utterances [" in capsys.readouterr().err


def prepared_with_other(part: str) -> Callable[[Any], Any]:
    """What prepares a configuration where each checksum of one part of the identity is another."""
    real = sweep_engine.prepare

    def other(config: Any) -> Any:
        made = real(config)
        return replace(made, identity=made.identity | {part: dict.fromkeys(made.identity[part], "0" * 64)})

    return other


def test_a_node_with_other_weights_is_refused(
    grid: list[str], tmp_path: Path, imitated: Callable[..., Imitation], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    imitated()
    monkeypatch.setattr(sweep_engine, "prepare", prepared_with_other("weights"))
    assert sweep(grid, tmp_path / "runs", "--engine", "ray") == 2
    err = capsys.readouterr().err
    assert "compared on node " in err
    assert "weights." in err
    assert "every node needs the same files and versions" in err
    assert "which are safe; go on with\n  armory-mdnf sweep" in err
    assert "--engine ray" in err


def test_a_node_with_other_code_is_refused(
    grid: list[str], tmp_path: Path, imitated: Callable[..., Imitation], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    imitated()
    other = prepared_with_other("code")
    with monkeypatch.context() as patch:
        patch.setattr(sweep_engine, "prepare", other)
        assert sweep(grid, tmp_path / "runs", "--engine", "ray") == 2
    told = f"code.armory_mdnf was '{own_code()}' there, is '{'0' * 64}' now; every node needs the same"
    assert told in capsys.readouterr().err
    # ... and where the worker that plans has it, before anything is begun.
    monkeypatch.setattr(sweep_plan, "prepare", other)
    assert sweep(grid, tmp_path / "others", "--engine", "ray") == 2
    assert f"the command, compared with a worker's plan, was made of something else: {told}" in capsys.readouterr().err
    assert not (tmp_path / "others").exists()


def test_a_cluster_that_cannot_be_had(
    grid: list[str], tmp_path: Path, imitated: Callable[..., Imitation], capsys: Any
) -> None:
    out = tmp_path / "runs"
    ray = imitated()
    assert sweep(grid, out, "--engine", "ray", "--address", "nowhere") == 2
    assert "cannot join the cluster at nowhere: ConnectionError: no cluster answers" in capsys.readouterr().err
    assert sweep(grid, out, "--engine", "ray", "--threads", "2") == 2
    assert "no node of the cluster has 2 cores" in capsys.readouterr().err
    assert sweep(grid, out, "--engine", "ray", "--device", "cuda") == 2
    assert "--device cuda: torch finds no CUDA device" in capsys.readouterr().err
    assert ray.joined is None
    assert not out.exists()


def test_addresses(imitated: Callable[..., Imitation], monkeypatch: pytest.MonkeyPatch) -> None:
    ray = imitated()
    sweep_ray.Cluster(None, None, 1)
    assert ray.joined is not None
    assert ray.joined["address"] == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    sweep_ray.Cluster(None, None, 1)
    assert ray.joined["address"] == "head:6379"
    sweep_ray.Cluster("local", 3, 2)
    assert (ray.joined["address"], ray.joined["num_cpus"]) == ("local", 6)


def test_a_cluster_whose_nodes_are_gone(imitated: Callable[..., Imitation], config: dict[str, Any]) -> None:
    ray = imitated()
    place = sweep_ray.Cluster(None, None, 1)
    task = sweep_engine.Task(0, sweep_engine.text_of(config), (13,), 1)
    running = place.results(iter([task]))

    def wait(references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        ray.cores = 0
        return [], references

    ray.wait = wait  # type: ignore[method-assign]
    with pytest.raises(ResultsError, match="has lost every node"):
        next(running)


def test_kinds_of_processors_are_told(imitated: Callable[..., Imitation], capsys: Any) -> None:
    imitated()
    place = sweep_ray.Cluster(None, None, 1)
    for kind in ("AVX2", "AVX2", "AVX512", "AVX2"):
        place._tell_kind(kind)
    assert capsys.readouterr().err == (
        "note: workers compute with AVX2 and AVX512: last bits depend on which of them has a batch\n"
    )


FRAGILE = """
import os
from pathlib import Path
from armory_mdnf.defenses import WaveformDefense

class Fragile(WaveformDefense):
    def defend(self, x, lengths, streams):
        try:
            os.rename(Path(__file__).with_name("armed"), Path(__file__).with_name("died"))
        except FileNotFoundError:
            return 0.5 * x
        os.kill(os.getpid(), 9)
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a real cluster: two nodes of one core on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'armory-mdnf[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}:{tmp_path}")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    size = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=size)
    try:
        made.add_node(**{key: value for key, value in size.items() if key != "include_dashboard"})
        made.wait_for_nodes()
        yield made.address
    finally:
        made.shutdown()


@pytest.mark.slow
def test_two_workers_of_ray_of_which_one_is_killed_give_the_same_bits(
    cluster: str, grid: list[str], tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "fragile_worker.py").write_text(FRAGILE)
    config = json.loads(Path(grid[0]).read_text())
    config["defense"] = {"module": "fragile_worker", "name": "Fragile", "type": "Preprocessor", "kwargs": {}}
    Path(grid[0]).write_text(json.dumps(config))
    whole, out = tmp_path / "whole", tmp_path / "runs"
    assert sweep(grid, whole, "--processes", "1") == 0
    (tmp_path / "armed").touch()
    assert sweep(grid, out, "--engine", "ray", "--address", cluster) == 0
    assert (tmp_path / "died").exists()
    err = capsys.readouterr().err
    assert "a worker was lost with utterances [" in err
    assert "with 2 processes" in err
    assert found(out) == found(whole)
    for name in CELLS:
        pair = [read_armory_results(folder / name / "results.json").outcomes for folder in (out, whole)]
        assert pair[0] == pair[1]
