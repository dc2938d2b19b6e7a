"""Images as bytes, from addresses and generators; streams and cameras, and those that are not there."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from detframe.data import IMAGE_FAULTS
from detframe.inference import Detector, addresses, streams
from detframe.inference.addresses import local_path, scheme_of
from detframe.inference.inputs import as_array, as_tensor, expand
from detframe.inference.streams import LiveStream, open_address, open_camera
from detframe.web import without_password
from tests.backends import handmade
from tests.media_server import Site, serving


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path) as found:
        yield found


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """A photo that its EXIF orientation turns, under a name with a space and an umlaut."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a ü.jpg", exif=exif)
    return tmp_path / "a ü.jpg"


def test_every_form_of_an_image_is_the_same_image(site: Site, turned: Path):
    data = turned.read_bytes()
    expected = as_tensor(turned)
    assert expected.shape == (3, 30, 20)
    address = f"{site.address}/a%20%C3%BC.jpg"
    (site.folder / "a%20%C3%BC.jpg").write_bytes(data)  # this server does not decode names
    forms = [
        str(turned),
        turned.as_uri(),
        address,
        f"{site.address}/a ü.jpg?size=2 x#y",
        data,
        bytearray(data),
        memoryview(data),
    ]
    forms += [Image.open(BytesIO(data)), as_array(turned), expected, expected.float() / 255]
    for form in forms:
        np.testing.assert_array_equal(as_array(form), expected.permute(1, 2, 0).numpy(), str(form)[:40])
        assert len(list(expand(form))) == 1
    assert len(list(expand(form for form in forms))) == len(forms)
    assert as_tensor(forms[-1]).dtype == torch.float32  # as it came: the model takes it
    assert as_array(forms[6]).dtype == np.uint8


def test_a_detector_takes_every_form_and_a_generator_of_them(site: Site, turned: Path, tmp_path: Path):
    detector = Detector.load(handmade.write(tmp_path / "model.onnx"), device="cpu")
    (site.folder / "a.jpg").write_bytes(turned.read_bytes())
    forms = [turned, turned.read_bytes(), f"{site.address}/a.jpg", as_array(turned), as_tensor(turned)]
    found = detector.predict(form for form in forms)
    assert len(found) == 5 and {prediction.size_hw for prediction in found} == {(30, 20)}
    for prediction in found:
        np.testing.assert_array_equal(prediction["boxes"], found[0]["boxes"])
    gone = detector.predict([f"{site.address}/gone.jpg", turned], on_error="skip")
    assert gone[0] is None and gone[1] is not None


def test_a_file_of_another_machine(tmp_path: Path):
    assert local_path("file://localhost/a%20b.jpg") == Path("/a b.jpg")
    with pytest.raises(ValueError, match="names a file of the machine server"):
        list(expand("file://server/a.jpg"))


@pytest.mark.parametrize(
    ("data", "said"), [(b"", "is empty"), (b"junk" * 9, "the image of 36 bytes"), (None, "damaged|truncated")]
)
def test_bytes_that_are_no_image(data: bytes | None, said: str, turned: Path):
    with pytest.raises(ValueError, match=said):
        as_array(turned.read_bytes()[:200] if data is None else data)


def test_what_an_address_can_have_wrong(site: Site, turned: Path, monkeypatch: pytest.MonkeyPatch):
    (site.folder / "a.jpg").write_bytes(turned.read_bytes())
    (site.folder / "junk.jpg").write_bytes(b"junk" * 9)
    address = f"{site.address}/a.jpg"

    def refused(place: str, said: str, kind: type[Exception] = ConnectionError) -> None:
        with pytest.raises(kind, match=said) as caught:
            as_array(place)
        assert isinstance(caught.value, IMAGE_FAULTS) and place in str(caught.value)

    refused(f"{site.address}/none.jpg", "404 Not Found")
    refused(f"{site.address}/junk.jpg", "junk.jpg", ValueError)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    refused(f"http://127.0.0.1:{port}/a.jpg", "Connection refused")
    monkeypatch.setattr(addresses, "_LARGEST_IMAGE", 100)
    refused(address, "100 are free for it at most")
    monkeypatch.undo()
    site.overstated = 10
    refused(address, r"the connection ended after \d+ of \d+ bytes|IncompleteRead")
    site.overstated, site.trickle = 0, 0.02
    monkeypatch.setattr(addresses, "_MOST_SECONDS", 0.2)
    refused(address, "bytes came within 0.2 s")


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(addresses, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(ConnectionError, match="timed out"):
            as_array(f"http://127.0.0.1:{silent.getsockname()[1]}/a.jpg")
        assert time.monotonic() - started < 10


def test_names_and_passwords_go_to_the_server_and_nowhere_else(site: Site, turned: Path):
    (site.folder / "a.jpg").write_bytes(turned.read_bytes())
    host = site.address.removeprefix("http://")
    as_array(f"http://me:s%40cret@{host}/a.jpg")
    assert site.headers[-1]["Authorization"] == "Basic bWU6c0BjcmV0"
    with pytest.raises(ConnectionError) as caught:
        as_array(f"http://me:secret@{host}/none.jpg")
    assert "secret" not in str(caught.value) and f"http://{host}/none.jpg" in str(caught.value)
    assert without_password("rtsp://a:b@c/d@e") == "rtsp://c/d@e"


def test_what_is_an_address():
    assert [scheme_of(word) for word in ("http://a", "RTSP://a", "C:\\x", "c:/x", "a.jpg", "nothing://x")] == [
        *("http", "rtsp", "", "", "", ""),
    ]
    with pytest.raises(ValueError, match="rtsp://camera/1 is a stream"):
        as_array("rtsp://me:secret@camera/1")


# ---------------------------------------------------------------------------------------------------- streams
def test_a_live_stream_gives_what_is_recent(site: Site):
    site.rate, site.length = 100, 120
    seen = []
    with open_address(f"{site.address}/live") as reader:
        assert reader.is_live
        stream = LiveStream(reader, most=2)
        with pytest.raises(ValueError, match="after 120 frames"):  # as a camera that goes away
            for frame in stream:
                seen.append(frame)
                time.sleep(0.1 if len(seen) <= 5 else 0)
    assert len(seen) + stream.num_dropped == 120 and stream.num_dropped >= 10
    times = [frame.time for frame in seen]
    assert times == sorted(times) and times[0] < 1
    values = [int(frame.image[0, 0, 0]) for frame in seen]  # the picture tells its number
    assert values == sorted(values) and values[5] - values[1] >= 20


def test_what_is_live(site: Site):
    """A file of a known size is not, though its format states no length; a playlist is, until it says where it ends."""
    with av.open(str(site.folder / "a.ts"), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(50):
            image = np.full((48, 64, 3), number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n"
    (site.folder / "live.m3u8").write_text(head)
    (site.folder / "film.m3u8").write_text(f"{head}#EXT-X-ENDLIST\n")
    for name, is_live in (("a.ts", False), ("film.m3u8", False), ("live.m3u8", True)):
        with open_address(f"{site.address}/{name}") as reader:
            assert reader.is_live == is_live
            assert is_live or len(list(reader)) == 50


def test_a_live_stream_stops_when_asked(site: Site):
    stop = False
    with open_address(f"{site.address}/live") as reader:
        stream = LiveStream(reader, 2, lambda: stop)
        for number, _ in enumerate(stream, 1):
            stop = number == 3
    assert number == 3


def test_a_stream_that_falls_silent_is_an_error(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streams, "TIMEOUT", 1.0)
    site.rate = 1 / 30
    with pytest.raises(ValueError, match=r"/live"), open_address(f"{site.address}/live") as reader:
        list(LiveStream(reader, 2))


@pytest.mark.parametrize("scheme", ["http", "rtsp", "rtmp"])
def test_streams_that_are_not_there(scheme: str):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ValueError, match=rf"{scheme}://127.0.0.1:{port}/x .*Connection refused") as caught:
        open_address(f"{scheme}://me:secret@127.0.0.1:{port}/x")
    assert "secret" not in str(caught.value)


def test_a_playlist_of_a_server_reaches_no_files(site: Site, tmp_path: Path):
    (tmp_path / "a.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{(tmp_path / 'x.ts').as_uri()}\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(ValueError, match=r"a\.m3u8"), open_address(f"{site.address}/a.m3u8") as reader:
        list(reader)


def test_no_camera(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=r"this machine has no camera 999: there is .*write \./999"):
        open_camera(999)
