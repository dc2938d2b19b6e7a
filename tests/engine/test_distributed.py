"""The environments that describe a group of processes, starting one, and working in one."""

import os
import re
import socket
import subprocess
import sys
import time

import pytest
import torch

from detframe.engine import inputs
from detframe.parallel.environment import share_of_cores
from detframe.parallel.joining import Membership, check_gpus, expand_counts, find_membership, first_host
from detframe.parallel.launching import RankTraceback, launch
from tests.engine import light, ranks
from tests.engine.fakes import make_trainer, save_state, weights

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_JOB_NODELIST": "node[03-05,9]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
}


def test_nothing_said_is_one_process():
    assert find_membership({}) is None
    assert find_membership({"WORLD_SIZE": "1", "RANK": "0"}) is None


def test_torchrun():
    env = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    env |= {"MASTER_ADDR": "host", "MASTER_PORT": "123"}
    assert find_membership(env) == Membership(3, 4, 1, 2, "host", 123)


def test_world_size_without_rank_is_an_error():
    with pytest.raises(ValueError, match="RANK is not set"):
        find_membership({"WORLD_SIZE": "4"})


def test_slurm():
    member = find_membership(SLURM)
    assert member == Membership(5, 7, 1, 2, "node03", member.master_port)
    assert 20000 <= member.master_port < 40000
    assert member.master_port == find_membership({**SLURM, "SLURM_PROCID": "6"}).master_port
    assert find_membership({**SLURM, "MASTER_PORT": "99", "MASTER_ADDR": "h"}).master_addr == "h"


def test_slurm_without_the_rarer_variables():
    env = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "a"}
    member = find_membership(env)
    assert (member.rank, member.world_size, member.local_rank, member.local_world_size) == (1, 2, 1, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_STEP_ID": "4294967290"},  # the shell of salloc, where it is a step of its own
        {"SLURM_STEP_ID": "4294967291"},  # the script of sbatch
        {"SLURM_STEP_ID": "", "ENVIRONMENT": "BATCH"},
        {"SLURM_NTASKS": "1"},
        {"SLURM_STEP_NUM_TASKS": "1"},  # srun -n 1 inside a larger job
    ],
)
def test_slurm_without_a_step_of_several_tasks_is_one_process(change):
    assert find_membership({**SLURM, **change}) is None
    shell = {key: value for key, value in SLURM.items() if key != "SLURM_PROCID"}
    assert find_membership(shell) is None


def test_torchrun_inside_slurm_comes_first():
    assert find_membership({**SLURM, "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}).world_size == 2


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node7", "node7"),
        ("a,b", "a"),
        ("node[03-05,9]", "node03"),
        ("node[9,03-05],gpu1", "node9"),
        ("rack1-n[001-128]", "rack1-n001"),
        ("r[1-2]n[05-08].local,x", "r1n05.local"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_first_host(nodes, host):
    assert first_host(nodes) == host


def test_tasks_per_node():
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]
    with pytest.raises(ValueError, match="tasks per node"):
        expand_counts("many")


def test_every_rank_needs_a_gpu():
    check_gpus(4, 4, bound=False)
    check_gpus(4, 1, bound=True)
    with pytest.raises(ValueError, match=r"4 processes on this machine, but it shows 2 GPU"):
        check_gpus(4, 2, bound=True)


def test_starting_processes_needs_no_torch(run_python):
    done = run_python("-c", "import sys; from detframe.engine import launch; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False"


def test_result_of_rank_zero():
    assert launch(light.environment, 2, ("RANK", "WORLD_SIZE", "LOCAL_RANK")) == ["0", "2", "0"]


def test_one_process_is_a_plain_call():
    assert launch(os.getpid, 1) == os.getpid()


def test_failing_rank_ends_all_and_its_traceback_comes_first():
    start = time.monotonic()
    with pytest.raises(ValueError, match="the message of rank 1") as caught:
        launch(ranks.fail_on_rank_one, 2)
    assert time.monotonic() - start < 50
    assert isinstance(caught.value.__cause__, RankTraceback)
    assert "rank 1 of 2 failed" in str(caught.value.__cause__)
    assert "in fail_on_rank_one" in str(caught.value.__cause__)


def test_exit_code_of_a_rank_is_passed_on():
    with pytest.raises(SystemExit) as caught:
        launch(light.end_rank_one, 2, ("exit",))
    assert caught.value.code == 7


def test_killed_rank_is_named():
    with pytest.raises(RuntimeError, match="rank 1 of 2 was killed by SIGKILL"):
        launch(light.end_rank_one, 2, ("kill",))


def test_slurm_processes_find_each_other(root):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    code = (
        "from detframe.parallel.joining import process_group; from detframe.parallel.collectives import *\n"
        "with process_group('cpu'): print(rank(), world_size(), gather_objects(rank()))"
    )
    base = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "RANK", "WORLD_"))}
    base |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "MASTER_PORT": port, "SLURM_NTASKS": "2"}
    base |= {"SLURM_JOB_NODELIST": "127.0.0.1", "SLURM_STEP_ID": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**base, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == ["0 2 [0, 1]", "1 2 [0, 1]"]


# ---------------------------------------------------------------------------------------------- two ranks
@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two ranks found with the fake model."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "damaged").mkdir()
    for iteration in (4, 8):
        save_state(folder / "damaged", f"model_{iteration:07d}.pth", iteration)
    (folder / "damaged" / "model_0000008.pth").write_bytes(b"")
    return folder, launch(ranks.two_ranks, 2, (str(folder),))


def test_two_ranks_see_each_other(together):
    found = together[1]
    assert found["world"] == 2
    assert found["any"] is True
    assert found["threads"] == share_of_cores(2)


@pytest.mark.parametrize("steps", [1, 2])
def test_two_ranks_and_accumulation_equal_one_process(together, tmp_path, steps):
    alone = make_trainer(tmp_path)
    alone.train()
    found = {name: torch.from_numpy(value) for name, value in together[1]["weights"][steps].items()}
    torch.testing.assert_close(found, weights(alone))


def test_nonfinite_loss_on_one_rank_stops_all_before_the_update(together):
    folder, found = together
    (first, after_first), (second, after_second) = found["nonfinite"]
    assert first == second
    assert "iteration 3" in first
    assert "rank 1: loss_a is inf" in first
    assert "rank 0:" not in first
    assert "22, 23" in first  # images of rank 1
    assert all((after_first[key] == after_second[key]).all() for key in after_first)
    bundles = [torch.load(folder / "nonfinite" / f"iter_0000003_rank{r}.pth", weights_only=True) for r in (0, 1)]
    assert (bundles[0]["model"]["layer.weight"].numpy() == after_first["layer.weight"]).all()
    assert [t["image_id"] for t in bundles[1]["targets"]] == [22, 23]


def test_a_step_that_is_not_finite_on_one_rank_is_skipped_by_all(together):
    (first, after_first), (second, after_second) = together[1]["skipping"]
    assert first == second == "no error"
    assert all((after_first[key] == after_second[key]).all() for key in after_first)
    assert (after_first["layer.weight"] != together[1]["nonfinite"][0][1]["layer.weight"]).all()  # it went on


def test_the_exchange_of_gradients_is_measured(together):
    (text, other) = together[1]["exchange"]
    assert text == other
    pattern = (
        r"summing gradients of 0\.0 MB over 2 ranks takes about (\S+) s a step, most of it during the backward pass "
        r"\(3\.2e-05 MB took (\S+) ms: \S+ GB/s through each\)"
    )
    seconds, milliseconds = map(float, re.fullmatch(pattern, text).groups())
    assert 0 < seconds == pytest.approx(milliseconds / 1000, rel=0.02)


@pytest.mark.parametrize(
    ("seconds", "hosts", "warned"),
    [(1.0, ["a", "b"], True), (1.0, ["a", "a"], False), (0.001, ["a", "b"], False)],
)
def test_a_slow_network_between_hosts_is_named(monkeypatch, seconds, hosts, warned):
    monkeypatch.setattr(inputs, "world_size", lambda: 2)
    monkeypatch.setattr(inputs, "gather_objects", lambda value: hosts)
    monkeypatch.setattr(inputs, "all_reduce_seconds", lambda size, device: seconds)
    text = inputs.describe_exchange(torch.nn.Linear(4096, 2048, bias=False), torch.device("cpu"))  # 32 MiB
    assert f"takes about {2 * seconds:.3g} s a step" in text
    assert f"{2**24 / 1e9 / seconds:.2g} GB/s through each" in text  # of two ranks, each sends all of it once
    assert ("NCCL_SOCKET_IFNAME (GLOO_SOCKET_IFNAME on CPUs) chooses the network card" in text) is warned


def test_error_on_rank_zero_is_an_error_everywhere(together):
    assert together[1]["rank zero"] == [
        ("OSError", "cannot write model.pth: the disk is full"),
        ("ProcessFailedError", "rank 0 failed to save: OSError: cannot write model.pth: the disk is full"),
    ]


def test_different_loss_keys_are_refused(together):
    assert all("the ranks have different losses" in text for text in together[1]["keys"])


def test_all_ranks_go_on_from_one_checkpoint(together):
    (first, error), (second, other) = together[1]["newest"]
    assert first == second == "model_0000004.pth"
    assert error == other
    assert "not all ranks can read it: rank 1: " in error


def test_weights_broken_on_one_rank_are_saved_by_none(together):
    (first, files), (second, _) = together[1]["broken"]
    assert first == second
    assert first.startswith(
        "after the update of iteration 8 the weights are not finite, so they are not saved: layer.bias"
    )
    assert files == []


def test_a_step_that_is_one_graph_on_each_of_two_ranks_equals_one_process(together, tmp_path):
    found, calls, graphs = together[1]["compiled"]
    alone, none, _ = ranks.compiled_training(tmp_path, "off")
    assert none == []
    for name, value in alone.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), torch.from_numpy(value), atol=1e-6, rtol=1e-4)
    assert calls == ["training, 2x3x128x128"]
    assert graphs == 2  # PyTorch parts it where a bucket of gradients is full
