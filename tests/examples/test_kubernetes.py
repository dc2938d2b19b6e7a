"""examples/kubernetes/trainjob.yaml: the models of Kubeflow Trainer's API know it, and its command trains."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.engine.conftest import datasets
from tests.engine.ranks import tiny_config
from tests.examples.conftest import free_port

__all__ = ["datasets"]


@pytest.fixture(scope="module")
def documents() -> dict[str, dict]:
    text = (ROOT / "examples" / "kubernetes" / "trainjob.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def train_job():
    models = pytest.importorskip("kubeflow_trainer_api.models")
    return models.TrainerV1alpha1TrainJob


def test_the_api_knows_every_field(documents, train_job):
    """The models, which are generated from the API's OpenAPI schema, drop what they do not know."""
    job = documents["TrainJob"]
    assert train_job.from_dict(copy.deepcopy(job)).to_dict() == job
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")


@pytest.mark.parametrize("key, value", [("numNode", 4), ("numNodes", "4"), ("args", "--resume"), ("env", {"A": "1"})])
def test_the_check_finds_mistakes(documents, train_job, key, value):
    job = copy.deepcopy(documents["TrainJob"])
    job["spec"]["trainer"][key] = value
    try:
        found = train_job.from_dict(copy.deepcopy(job)).to_dict()
    except (ValueError, TypeError):
        return
    assert found != job


def test_volumes_and_numbers_fit_together(documents):
    job, claim = documents["TrainJob"]["spec"], documents["PersistentVolumeClaim"]
    (patch,) = job["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts["/runs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    trainer, words = job["trainer"], job["trainer"]["args"]
    assert Path(words[words.index("OUTPUT_DIR") + 1]).is_relative_to("/runs")
    assert (ROOT / words[words.index("--config-file") + 1]).is_file()
    gpus = int(trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"])
    assert gpus == trainer["numProcPerNode"]
    assert int(words[words.index("SOLVER.IMS_PER_BATCH") + 1]) % (gpus * trainer["numNodes"]) == 0
    # names of the runtime torch-distributed, which the patch is for
    assert (job["runtimeRef"]["name"], replicated["name"], container["name"]) == ("torch-distributed", "node", "node")


@pytest.mark.slow
def test_its_command_trains_where_the_runtime_says_who_is_who(documents, datasets, tmp_path):
    """Two machines of one process, by the variables that the runtime sets; what belongs to a cluster is replaced."""
    trainer = documents["TrainJob"]["spec"]["trainer"]
    config = tmp_path / "tiny.yaml"
    config.write_text(tiny_config(("SOLVER.MAX_ITER", 3, "SOLVER.STEPS", ())).dump())
    here = {
        "--config-file": str(config),
        "OUTPUT_DIR": str(tmp_path / "out"),
        "DATASETS.CATALOG": "",
        "DATASETS.TRAIN": "shapes_train",
        "DATASETS.TEST": "shapes_val",
        "SOLVER.IMS_PER_BATCH": "4",
        "SOLVER.BASE_LR": "0.01",
    }
    args = [here.get(before, word) for before, word in zip(["", *trainer["args"]], trainer["args"], strict=False)]
    command = [sys.executable, "-m", "torch.distributed.run"] if trainer["command"] == ["torchrun"] else []
    port = free_port()
    pods = []
    for node in range(2):
        runtime = {"NNODES": 2, "NPROC_PER_NODE": 1, "NODE_RANK": node, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own = {f"PET_{name}": str(value) for name, value in runtime.items()}
        own |= {"DETFRAME_DATASETS": str(datasets), "DETFRAME_CACHE": str(datasets / "cache"), "PYTHONPATH": str(ROOT)}
        env = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
        pods.append(subprocess.Popen([*command, *args], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True))
    texts = [pod.communicate(timeout=300)[1] for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0], texts
    assert (tmp_path / "out" / "model_final.pth").is_file() and (tmp_path / "out" / "log_rank1.txt").is_file()
