"""Exported files run by their runtimes: results, what they refuse, and what is said about files that cannot be run."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from detframe.backends import is_exported, open_model
from detframe.backends.openvino_file import shared_core
from detframe.errors import UserError
from tests.backends import handmade

SIZES = np.array([[20, 30], [10, 12], [5, 7]])
FORMATS = ["onnx", "openvino"]


def pictures(count: int = 3, height: int = 20, width: int = 30) -> np.ndarray:
    images = np.zeros((count, 3, height, width), np.uint8)
    for number, red in enumerate((255, 0, 102, 51)[:count]):
        images[number, 0, 3, 4] = red
    return images


def written(tmp_path: Path, kind: str, what=None, **more: bool) -> Path:
    what = handmade.card() if what is None else what
    if kind == "onnx":
        return handmade.write(tmp_path / "model.onnx", what, **more)
    pytest.importorskip("openvino")
    return handmade.write_openvino(tmp_path / "model.xml", what, **more)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_a_file_gives(tmp_path, kind):
    what = handmade.card(thresholds={"score": 0.25, "nms": 0.5}, keypoint_names=("é", "b"))
    session = open_model(written(tmp_path, kind, what, masks=True, keypoints=True))
    assert session.card == what and session.format == kind and session.device == "cpu"
    found = session.run(pictures(), SIZES)
    assert list(found) == ["boxes", "scores", "labels", "count", "masks", "keypoints"]
    np.testing.assert_array_equal(found["count"], [2, 0, 2])
    np.testing.assert_allclose(found["boxes"][0], [[0, 0, 15, 10], [7.5, 5, 30, 20], [0, 0, 0, 0]])
    np.testing.assert_allclose(found["scores"], [[1, 0.5, 0], [0, 0, 0], [0.4, 0.2, 0]], rtol=1e-6)
    np.testing.assert_array_equal(found["labels"][2], [1, 2, 0])
    kinds = {name: (values.shape, values.dtype.name) for name, values in found.items()}
    assert kinds == {
        "boxes": ((3, 3, 4), "float32"),
        "scores": ((3, 3), "float32"),
        "labels": ((3, 3), "int64"),
        "count": ((3,), "int64"),
        "masks": ((3, 3, 4, 4), "float32"),
        "keypoints": ((3, 3, 2, 3), "float32"),
    }


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_fixed_batch_takes_any_number(tmp_path, kind, count):
    free = open_model(handmade.write(tmp_path / "free.onnx"))
    session = open_model(written(tmp_path, kind, handmade.card(input=handmade.fixed(20, 30, batch=2))))
    sizes = np.array([[20, 30], [10, 12], [5, 7], [20, 1]])[:count]
    found, wanted = session.run(pictures(count), sizes), free.run(pictures(count), sizes)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, err_msg=name)


def test_what_it_gives_stays_when_it_runs_again(tmp_path):
    session = open_model(written(tmp_path, "openvino"))
    first = session.run(pictures(), SIZES)
    kept = {name: values.copy() for name, values in first.items()}
    session.run(pictures()[:, :, ::-1], SIZES[::-1].copy())
    for name, values in kept.items():
        np.testing.assert_array_equal(first[name], values)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(tmp_path, threads):
    for kind in FORMATS:
        session = open_model(written(tmp_path, kind), threads=threads)
        assert session.run(pictures(), SIZES)["count"].tolist() == [2, 0, 2]


# ------------------------------------------------------------------ wrong inputs
@pytest.mark.parametrize(
    ("images", "sizes", "message"),
    [
        (
            np.zeros((1, 3, 8, 8), np.float32),
            SIZES[:1],
            r"shape \(1, 3, 8, 8\) and type float32; .* uint8 \(N, 3, H, W\)",
        ),
        (np.zeros((1, 8, 8, 3), np.uint8), SIZES[:1], r"shape \(1, 8, 8, 3\)"),
        (np.zeros((3, 8, 8), np.uint8), SIZES[:1], r"shape \(3, 8, 8\)"),
        (np.zeros((0, 3, 8, 8), np.uint8), SIZES[:0], r"shape \(0, 3, 8, 8\)"),
        (np.zeros((1, 3, 0, 8), np.uint8), SIZES[:1], r"shape \(1, 3, 0, 8\)"),
        (np.zeros((1, 3, 8, 8), np.uint8), np.array([[8, 8], [8, 8]]), r"sizes of shape \(2, 2\) .* int64 \(1, 2\)"),
        (np.zeros((1, 3, 8, 8), np.uint8), np.array([[8.0, 8.0]]), "type float64"),
        (np.zeros((1, 3, 8, 8), np.uint8), np.array([[8, 9]]), "8x9 pixels .* plane of 8x8"),
        (np.zeros((1, 3, 8, 8), np.uint8), np.array([[0, 8]]), "0x8 pixels"),
    ],
)
def test_inputs_that_no_file_takes(tmp_path, images, sizes, message):
    with pytest.raises(ValueError, match=message):
        open_model(handmade.write(tmp_path / "model.onnx")).run(images, sizes)


def test_a_wrong_size_for_a_file_of_one_size(tmp_path):
    session = open_model(handmade.write(tmp_path / "m.onnx", handmade.card(input=handmade.fixed(64, 96, batch=1))))
    with pytest.raises(ValueError, match=r"got images of 96x64 .*m.onnx takes images as uint8 \(1, 3, 64, 96\), RGB"):
        session.run(np.zeros((1, 3, 96, 64), np.uint8), np.array([[96, 64]]))


# ------------------------------------------------------------------ wrong files
def assert_refused(path: Path, message: str, **how) -> UserError:
    with pytest.raises(UserError, match=message) as caught:
        open_model(path, **how)
    assert path.name.partition(".")[0] in str(caught.value), "the file is named"
    return caught.value


def broken(kind: str, tmp_path: Path) -> Path:
    """A file that was to be an ONNX file, and is not."""
    path = tmp_path / "model.onnx"
    good = handmade.model(handmade.card()).SerializeToString()
    if kind == "folder":
        path.mkdir()
        return path
    contents = {
        "truncated": good[: len(good) // 2],
        "nearly whole": good[:-1],
        "empty": b"",
        "zeros": bytes(1000),
        "text": b"hello, this is no model\n" * 9,
        "a zip": b"PK\x03\x04" + bytes(range(256)) * 4,
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize("kind", ["truncated", "nearly whole", "zeros", "text", "a zip"])
def test_a_truncated_or_foreign_onnx_file(tmp_path, kind):
    assert_refused(broken(kind, tmp_path), "is no ONNX file, or a truncated one: copy or export it again")


def test_an_empty_file_a_folder_and_none(tmp_path):
    assert_refused(broken("empty", tmp_path), "model.onnx is empty")
    assert_refused(tmp_path / "none.onnx", "no such file: .*none.onnx")
    (tmp_path / "other").mkdir()
    assert_refused(broken("folder", tmp_path / "other"), "is a folder")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = handmade.write(tmp_path / "model.onnx")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert_refused(path, "model.onnx cannot be read: Permission denied")


def test_an_operation_that_the_runtime_lacks(tmp_path):
    for name, domain in (("Frobnicate", ""), ("nms", "detframe")):
        made = handmade.model(handmade.card())
        made.graph.node.append(helper.make_node(name, ["sizes"], ["more"], domain=domain))
        if domain:
            made.opset_import.append(helper.make_opsetid(domain, 1))
        (tmp_path / "lacks.onnx").write_bytes(made.SerializeToString())
        assert_refused(
            tmp_path / "lacks.onnx", rf"lacks.onnx needs the operation \S*{name}, which onnxruntime \d\S* does not have"
        )


def test_operators_of_the_future(tmp_path):
    made = handmade.model(handmade.card())
    made.opset_import[0].version = 99
    (tmp_path / "future.onnx").write_bytes(made.SerializeToString())
    assert_refused(tmp_path / "future.onnx", "onnxruntime .* cannot load .*future.onnx: .*opset")


def test_a_file_without_our_card(tmp_path):
    onnx.save(handmade.model(None), tmp_path / "other.onnx")
    assert_refused(tmp_path / "other.onnx", "other.onnx has no card of detframe")


def test_a_damaged_card(tmp_path):
    made = handmade.model(None)
    helper.set_model_props(made, {"detframe": '{"version": 1, '})
    onnx.save(made, tmp_path / "model.onnx")
    assert_refused(tmp_path / "model.onnx", "is no JSON")


def test_a_file_with_the_card_but_other_outputs(tmp_path):
    made = handmade.model(handmade.card())
    del made.graph.output[1]
    onnx.save(made, tmp_path / "model.onnx")
    assert_refused(tmp_path / "model.onnx", "model.onnx has no output scores")


def external(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "external"
    folder.mkdir(exist_ok=True)
    path, data = folder / "model.onnx", folder / "weights.bin"
    how = {"save_as_external_data": True, "location": data.name, "size_threshold": 80}  # shapes are needed at once
    onnx.save(handmade.model(handmade.card()), path, **how)
    return path, data


def test_weights_in_a_file_of_their_own(tmp_path):
    path, data = external(tmp_path)
    assert open_model(path).run(pictures(), SIZES)["count"].tolist() == [2, 0, 2]
    data.write_bytes(data.read_bytes()[:20])
    assert_refused(path, "the file with the weights of .*model.onnx is truncated")
    data.unlink()
    error = assert_refused(path, r"model.onnx keeps its weights in .*weights.bin, which does not exist")
    assert isinstance(error, FileNotFoundError)


def test_a_checkpoint_is_no_exported_file(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"model.pth is no exported model: they end in .onnx \(ONNX\), .xml"):
        open_model(tmp_path / "model.pth")
    assert not is_exported("model.pth") and is_exported("a/B.ONNX") and is_exported(Path("model.xml"))


def test_the_weights_of_openvino_in_place_of_the_model(tmp_path):
    path = written(tmp_path, "openvino")
    with pytest.raises(ValueError, match=r"model.bin holds the weights of .*model.xml: name that one"):
        open_model(path.with_suffix(".bin"))


def test_openvino_files_that_cannot_be_run(tmp_path):
    path = written(tmp_path, "openvino")
    text, weights = path.read_text(encoding="utf-8"), path.with_suffix(".bin").read_bytes()

    def changed(name: str, content: str, binary: bytes | None = weights) -> Path:
        other = tmp_path / f"{name}.xml"
        other.write_text(content, encoding="utf-8")
        if binary is not None:
            other.with_suffix(".bin").write_bytes(binary)
        return other

    assert_refused(changed("half", text[: len(text) // 2]), "half.xml is truncated or damaged")
    assert_refused(changed("page", "<html><body>404</body></html>"), "page.xml is no model of OpenVINO")
    assert_refused(changed("alone", text, None), r"alone.xml keeps its weights in .*alone.bin, which does not exist")
    assert_refused(changed("short", text, weights[:8]), r"short.bin is truncated, or not that of .*short.xml")
    lacking = text.replace('type="ReduceMax"', 'type="Frobnicate"')
    assert_refused(changed("lacks", lacking), r"lacks.xml needs the operation Frobnicate, which OpenVINO")
    start, end = text.index("<detframe"), text.index("/>", text.index("<detframe")) + 2
    assert_refused(changed("plain", text[:start] + text[end:]), "plain.xml has no card of detframe")


SIGNALLED = """
import os, signal, sys
from detframe.backends import open_model

def refusal(path):
    try:
        open_model(path)
    except ValueError as error:
        return error

heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
loaded = [open_model(sys.argv[1]), refusal(sys.argv[2]), open_model(sys.argv[1]), refusal(sys.argv[2])]
while loaded:
    del loaded[0]
    os.kill(os.getpid(), signal.SIGUSR1)
print(len(heard), "heard")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_signals_are_heard_after_files_of_openvino_were_loaded_and_refused(tmp_path, run_python):
    """OpenVINO gives the thread another stack for them, which must not be gone when one comes."""
    path = written(tmp_path, "openvino")
    bad = tmp_path / "bad.xml"
    bad.write_text(path.read_text(encoding="utf-8").replace('type="ReduceMax"', 'type="Frobnicate"'), encoding="utf-8")
    shutil.copy(path.with_suffix(".bin"), bad.with_suffix(".bin"))
    done = run_python("-c", SIGNALLED, path, bad)
    assert (done.returncode, done.stdout) == (0, "4 heard\n"), done.stderr


def test_a_fork_has_a_core_of_its_own(monkeypatch):
    pytest.importorskip("openvino")
    assert shared_core() is shared_core()
    ours = shared_core()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert shared_core() is not ours


# ------------------------------------------------------------------ devices and runtimes
@pytest.mark.parametrize("device", ["mps", "cpu:1", "cuda:x", "gpu0"])
def test_a_device_that_onnxruntime_does_not_know(tmp_path, device):
    with pytest.raises(ValueError, match=f"device is '{device}'; onnxruntime takes auto, cpu, cuda or cuda:1"):
        open_model(handmade.write(tmp_path / "model.onnx"), device)


def test_a_device_that_is_not_there(tmp_path):
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ValueError, match=r"device is 'cuda', but this onnxruntime .* pip install onnxruntime-gpu"):
            open_model(handmade.write(tmp_path / "model.onnx"), "cuda")
    with pytest.raises(ValueError, match="device is 'cuda'; OpenVINO takes auto or, on this machine, cpu"):
        open_model(written(tmp_path, "openvino"), "cuda")


@pytest.mark.parametrize(("kind", "module"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_runtime_that_is_not_installed(tmp_path, monkeypatch, kind, module):
    path = written(tmp_path, kind)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"model\.\w+ needs {module}, .*: pip install {module}") as caught:
        open_model(path)
    assert isinstance(caught.value, UserError)


# ------------------------------------------------------------------ torch.export
def program(path: Path, card: str | None) -> Path:
    import torch

    class Finder(torch.nn.Module):
        def forward(self, images, sizes):
            n = images.shape[0]
            sides = sizes.flip(1).repeat(1, 2).float()[:, None]
            best = images[:, 0].amax((1, 2)).float() / 255
            boxes = sides * torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]]])
            scores = best[:, None] * torch.tensor([[1.0, 0.0]])
            labels = torch.tensor([[1, 0]]).expand(n, 2).clone()
            points = torch.ones(1, 2, 5, 3).expand(n, 2, 5, 3).clone()
            return boxes, scores, labels, torch.ones_like(sizes[:, 0]), torch.ones(n, 2, 4, 4), points

    n, h, w = torch.export.Dim("n", min=1, max=64), torch.export.Dim("h", min=16), torch.export.Dim("w", min=16)
    inputs = (torch.zeros(2, 3, 32, 48, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.int64))
    shapes = {"images": {0: n, 2: h, 3: w}, "sizes": {0: n}}
    exported = torch.export.export(Finder(), inputs, dynamic_shapes=shapes)
    torch.export.save(exported, str(path), extra_files={} if card is None else {"detframe.json": card})
    return path


def test_programs_of_torch(tmp_path):
    what = handmade.card(detections=2)
    session = open_model(program(tmp_path / "model.pt2", what.to_json()), device="cpu")
    assert session.card == what and session.format == "torch"
    for height, width in ((20, 30), (8, 30), (20, 9)):  # the smaller ones stand in a plane of the least size
        found = session.run(pictures(3, height, width), np.array([[height, width]] * 3))
        assert list(found) == ["boxes", "scores", "labels", "count", "masks", "keypoints"]
        np.testing.assert_allclose(found["boxes"][0, 0], [0, 0, width / 2, height / 2])
        np.testing.assert_allclose(found["scores"][:, 0], [1, 0, 0.4], rtol=1e-6)
        assert found["keypoints"].shape == (3, 2, 5, 3) and found["labels"].dtype == np.int64


def test_programs_that_cannot_be_run(tmp_path):
    import torch

    whole = program(tmp_path / "plain.pt2", None)
    assert_refused(whole, "plain.pt2 has no card of detframe")
    (tmp_path / "half.pt2").write_bytes(whole.read_bytes()[:3000])
    assert_refused(tmp_path / "half.pt2", "half.pt2 is no program of torch.export, or a truncated one")
    torch.save({"model": {}}, tmp_path / "checkpoint.pt2")
    assert_refused(tmp_path / "checkpoint.pt2", "checkpoint.pt2 is no program of torch.export: it holds")
    assert_refused(program(tmp_path / "card.pt2", "{"), "is no JSON")


def test_a_program_that_would_run_code_of_its_pickles(tmp_path):
    """torch.export.load falls back on unpickling anything."""
    import torch

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    whole, bad = program(tmp_path / "good.pt2", handmade.card().to_json()), tmp_path / "bad.pt2"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(bad, "w") as target:
        for item in source.infolist():
            if item.filename.endswith(
                ("sample_inputs/model.pt", "serialized_example_inputs.pt")
            ):  # the second is of 2.6
                torch.save(Evil(), tmp_path / "evil.pt")
                target.write(tmp_path / "evil.pt", item.filename)
            else:
                target.writestr(item, source.read(item))
    assert_refused(bad, "bad.pt2 is damaged, or cannot be read safely")
    assert not (tmp_path / "ran").exists()
    shutil.rmtree(tmp_path / "external", ignore_errors=True)
