"""A flavour of MLflow: detectors logged with a run, loaded as a Detector, and served as rows of a table.

    import detframe.integrations.mlflow as flavour
    flavour.log_model(detector, name="cells")                       # or the path of an exported file, "model.onnx"
    flavour.load_model("runs:/.../cells")                           # a Detector
    mlflow.pyfunc.load_model("runs:/.../cells").predict(["photo.jpg"])   # a table, a row for each object

A model is a folder of `Detector.save_pretrained`, or the exported file: nothing in it is a pickle.
"""

from __future__ import annotations

import base64
import binascii
import importlib.metadata
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

import detframe
from detframe.errors import InvalidTypeError, InvalidValueError, MissingFileError, shown
from detframe.inference import Detector
from detframe.inference.tiling import Tiles
from detframe.integrations.common import missing_library

try:
    import mlflow
    import pandas
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType
except ImportError as error:
    raise missing_library("detframe.integrations.mlflow", "mlflow", error) from error

FLAVOR_NAME = "detframe"
"""The name of the flavour in an MLmodel file."""
# The backend of each kind of exported file; what reads a checkpoint is torch
_NEEDED = {".onnx": ["onnxruntime"], ".xml": ["openvino"]}
_TORCH = ["torch", "torchvision"]
_COLUMNS = {
    "image": DataType.long,
    "class_name": DataType.string,
    "label": DataType.long,
    "category_id": DataType.long,
    "score": DataType.double,
    **dict.fromkeys(("x1", "y1", "x2", "y2"), DataType.double),
}
# What `mlflow.pyfunc.load_model` may be told; MLflow hands on what a model was saved with alone
_MODEL_CONFIG = {"device": "auto", "amp": "auto", "allow_custom_imports": False, "tiles": None}
_PARAMETERS = {"score_threshold": 0.0, "batch_size": 8}


def signature() -> ModelSignature:
    """What the pyfunc takes and gives: one column of pictures, of any type that `Served.predict` knows, and rows."""
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType())]),
        outputs=Schema([ColSpec(kind, name) for name, kind in _COLUMNS.items()]),
        params=ParamSchema(
            [
                ParamSpec("score_threshold", DataType.double, _PARAMETERS["score_threshold"]),
                ParamSpec("batch_size", DataType.long, _PARAMETERS["batch_size"]),
            ]
        ),
    )


def input_example() -> pandas.DataFrame:
    """A grey picture as a client sends one: base64 of a PNG file."""
    buffer = BytesIO()
    PIL.Image.new("RGB", (32, 32), (128, 128, 128)).save(buffer, "PNG")
    return pandas.DataFrame({"image": [base64.b64encode(buffer.getvalue()).decode()]})


def save_model(
    detector: Detector | str | Path,
    path: str | Path,
    *,
    mlflow_model: Model | None = None,
    signature: ModelSignature | bool | None = None,
    input_example: Any = None,
    pip_requirements: Sequence[str] | str | None = None,
    model_config: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    """Write a detector as a model of MLflow.

    Args:
        detector: a Detector of a checkpoint, or the path of a file that `Detector.load` reads, as "model.onnx".
        path: a folder that does not exist yet.
        signature: None: that of `signature()`; False: none, so that arrays (N, H, W, 3) may be handed in bare.
        input_example: None: that of `input_example()`.
        pip_requirements: None: this detframe, and what the file needs to run, at the versions that are here.
        model_config: what `mlflow.pyfunc.load_model` uses where it is not told otherwise: device, amp,
            allow_custom_imports, as `Detector.load` takes them, and tiles, as `Detector.predict` does.
        more: as `mlflow.pyfunc.save_model` takes it: metadata, code_paths, conda_env, extra_pip_requirements.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that `Detector.load` refuses.
    """
    model = Model() if mlflow_model is None else mlflow_model
    with tempfile.TemporaryDirectory(prefix="detframe-mlflow-") as temporary:
        data, file = _laid_out(detector, Path(temporary) / "detector")
        model.add_flavor(FLAVOR_NAME, detframe_version=detframe.__version__, data="data/detector")
        if pip_requirements is None and more.get("conda_env") is None:
            pip_requirements = _requirements(file)
        mlflow.pyfunc.save_model(
            str(path),
            loader_module=__name__,
            data_path=str(data),
            mlflow_model=model,
            signature=None if signature is False else _signature() if signature in (None, True) else signature,
            input_example=_example() if input_example is None else input_example,
            pip_requirements=pip_requirements,
            model_config={**_MODEL_CONFIG, **(model_config or {})},
            **more,
        )


_signature, _example = signature, input_example  # which arguments hide


def log_model(
    detector: Detector | str | Path, name: str = "detector", registered_model_name: str | None = None, **more: Any
) -> Any:
    """Log a detector with the active run of MLflow, or a new one.

    Args:
        more: as `save_model` and `mlflow.models.Model.log` take it: signature, pip_requirements, params, tags.

    Returns:
        MLflow's ModelInfo, whose model_uri loads it.
    """
    flavor = sys.modules[__name__]
    more = {"metadata": None, **more}
    return Model.log(
        None, flavor=flavor, name=name, registered_model_name=registered_model_name, detector=detector, **more
    )


def load_model(model_uri: str, dst_path: str | None = None, **loading: Any) -> Detector:
    """The detector that `log_model` or `save_model` has written.

    Args:
        model_uri: "runs:/RUN/NAME", "models:/NAME/1", a folder, ...
        dst_path: where a model from elsewhere is put.
        loading: as `Detector.load` takes it: device, amp, allow_custom_imports.

    Raises:
        ValueError: the model is of another flavour.
    """
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=str(model_uri), dst_path=dst_path))
    flavours = Model.load(str(folder)).flavors
    if FLAVOR_NAME not in flavours:
        raise InvalidValueError(f"{model_uri} is no model of detframe; its flavours are {', '.join(flavours)}")
    return _load(folder / flavours[FLAVOR_NAME]["data"], **loading)


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Served:
    """What MLflow calls for `mlflow.pyfunc.load_model`.

    Args:
        model_config: what `Detector.load` takes, and `tiles`, as `Detector.predict` takes it.
    """
    loading = dict(model_config or {})
    tiles = loading.pop("tiles", None)
    return Served(_load(Path(path), **loading), tiles)


class Served:
    """A detector as MLflow's pyfunc wants one: from pictures to rows.

    Args:
        tiles: how large pictures are cut, as `Detector.predict` takes it; None: as the detector was trained.
    """

    def __init__(self, detector: Detector, tiles: Tiles = None) -> None:
        detector.check(tiles=tiles)
        self.detector, self.tiles = detector, tiles

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pandas.DataFrame:
        """A row for each object: image (which of the pictures, from 0), class_name, label, category_id, score, x1, y1,
        x2, y2. A picture in which nothing is found has none.

        Args:
            model_input: a DataFrame with one column, a list, or an array, of pictures: paths of files, base64 of a file
                (a data URI, too), bytes of one, RGB arrays (H, W, 3) of uint8, PIL images. Addresses are refused: a
                server that fetched them would be one that strangers can send anywhere.
            params: score_threshold and batch_size, as `Detector.predict` has them.
        """
        how = {**_PARAMETERS, **(params or {})}
        predictions = self.detector.predict(list(_pictures(model_input)), tiles=self.tiles, **how)
        tables = [prediction.to_pandas().drop(columns="file_name") for prediction in predictions]
        for index, table in enumerate(tables):
            table.insert(0, "image", np.int64(index))
        whole = pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame(columns=list(_COLUMNS))
        kinds = {name: kind.to_pandas() for name, kind in _COLUMNS.items() if kind is not DataType.string}
        return whole.astype(kinds)[list(_COLUMNS)]


# ---------------------------------------------------------------------------------------------- inside
def _laid_out(detector: Detector | str | Path, folder: Path) -> tuple[Path, str]:
    """A folder with all that is needed, and the name of the exported file in it ("": there is a checkpoint)."""
    if isinstance(detector, Detector):
        if detector.card is not None:
            raise InvalidValueError("a Detector of an exported file holds no weights to save; hand in the file's path")
        return detector.save_pretrained(folder, name="detector"), ""
    path = Path(detector)
    if not path.exists():
        raise MissingFileError(f"there is no detector at {path} (working folder {Path.cwd()})")
    if path.is_dir() or path.suffix not in (*_NEEDED, ".pt2"):
        return Detector.load(path, device="cpu").save_pretrained(folder, name="detector"), ""
    Detector.load(path)  # what cannot be loaded here is not logged
    folder.mkdir()
    weights = [path.with_suffix(".bin")] if path.suffix == ".xml" else []
    for one in (path, *weights):
        shutil.copy(one, folder / one.name)
    return folder, path.name


def _requirements(file: str) -> list[str]:
    packages = ["detframe", *_NEEDED.get(Path(file).suffix, _TORCH), "pandas"]
    return [f"{name}=={importlib.metadata.version(name)}" for name in packages]


def _load(data: Path, **loading: Any) -> Detector:
    """The detector in the data of a model: the only exported file in it, else the folder itself."""
    exported = [path for path in sorted(data.iterdir()) if path.suffix in (*_NEEDED, ".pt2")]
    return Detector.load(exported[0] if exported else data, **loading)


def _pictures(model_input: Any) -> Iterator[Any]:
    if isinstance(model_input, pandas.DataFrame):
        if model_input.shape[1] != 1:
            raise InvalidValueError(
                f"the table has {model_input.shape[1]} columns ({', '.join(map(str, model_input))}); one with the "
                "pictures was expected"
            )
        model_input = model_input.iloc[:, 0]
    if isinstance(model_input, Mapping):
        if len(model_input) != 1:
            raise InvalidValueError(f"got a dict with {', '.join(map(str, model_input))}; one entry was expected")
        model_input = next(iter(model_input.values()))
    if isinstance(model_input, (str, bytes, Path, PIL.Image.Image)):
        model_input = [model_input]
    if isinstance(model_input, np.ndarray) and model_input.ndim == 3:
        model_input = [model_input]
    for index, picture in enumerate(model_input):
        yield _picture(picture, index)


def _picture(picture: Any, index: int) -> Any:
    """One picture as Detector.predict takes it."""
    if isinstance(picture, (str, Path)):
        return _from_text(str(picture), index)
    if isinstance(picture, list):  # of a request, whose JSON has no arrays
        return np.asarray(picture, dtype=np.uint8)
    if isinstance(picture, (bytes, bytearray, memoryview, np.ndarray, PIL.Image.Image)):
        return picture
    raise InvalidTypeError(
        f"picture {index} is a {type(picture).__name__}; a path, base64, the bytes of a file, an RGB array (H, W, 3) "
        "of uint8 or a PIL image was expected"
    )


def _from_text(text: str, index: int) -> Path | bytes:
    """A file's path or its content in base64."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    elif len(text) < 4096 and "\0" not in text and Path(text).is_file():
        return Path(text)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidValueError(
            f"picture {index}, {shown(text)}, is neither a file here (working folder {Path.cwd()}) nor base64"
        ) from None
