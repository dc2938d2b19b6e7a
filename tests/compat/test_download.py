"""Downloads: digests, the cache, working offline. A loopback server stands for the network."""

from __future__ import annotations

import errno
import hashlib
import http.server
import threading

import pytest
import torch

from detframe.compat import read_weights
from detframe.compat.download import cache_path, download, split_digest
from detframe.errors import CacheError


def put(files, path, content, promised=None):
    files[path] = content, len(content) if promised is None else promised
    return hashlib.sha256(content).hexdigest()


def leftovers(tmp_path):
    return [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_a_right_digest_and_the_cache(site, tmp_path):
    files, requests, address = site
    torch.save({"a": torch.arange(3)}, tmp_path / "w.pth")
    digest = put(files, "/w.pth", (tmp_path / "w.pth").read_bytes())
    for _ in range(2):
        assert read_weights(f"{address}/w.pth#sha256={digest.upper()}")["a"].tolist() == [0, 1, 2]
    assert requests == ["/w.pth"]
    assert leftovers(tmp_path) == [cache_path(f"{address}/w.pth")]


def test_a_wrong_digest_names_both_and_keeps_nothing(site, tmp_path):
    files, _, address = site
    digest = put(files, "/w.pth", b"other")
    with pytest.raises(ValueError, match=rf"sha256 is {digest}, it should be {'0' * 64}; it was not kept"):
        download(f"{address}/w.pth#sha256={'0' * 64}")
    assert leftovers(tmp_path) == []


def test_a_cached_file_is_checked_too(site):
    files, requests, address = site
    digest = put(files, "/w.pth", b"right")
    path = download(f"{address}/w.pth#sha256={digest}")
    path.write_bytes(b"changed")
    changed = hashlib.sha256(b"changed").hexdigest()
    with pytest.raises(ValueError, match=rf"w\.pth is not what .*{changed}.*{digest}; delete it"):
        download(f"{address}/w.pth#sha256={digest}")
    assert path.read_bytes() == b"changed" and len(requests) == 1


def test_digits_in_the_name(site, tmp_path):
    files, _, address = site
    digest = put(files, "/x", b"content")
    put(files, f"/net-{digest[:8]}.pth", b"content")
    assert download(f"{address}/net-{digest[:8]}.pth") == tmp_path / "cache" / "weights" / f"net-{digest[:8]}.pth"
    put(files, "/net-01234567.pth", b"content")
    with pytest.raises(ValueError, match=rf"sha256 is {digest}, it should begin with 01234567"):
        download(f"{address}/net-01234567.pth")
    # an explicit digest comes before the name
    assert download(f"{address}/net-01234567.pth#sha256={digest}").read_bytes() == b"content"


def test_the_md5_in_the_names_of_detectron2(site, monkeypatch):
    files, _, address = site
    content = b"a detector"
    digits = hashlib.md5(content).hexdigest()[:6]
    files[f"/R_50/1/model_final_{digits}.pkl"] = files["/R_50/1/model_final_000000.pkl"] = content, len(content)
    # of other hosts, six digits in a name mean nothing
    assert download(f"{address}/R_50/1/model_final_000000.pkl").read_bytes() == content
    monkeypatch.setattr("detframe.compat.download.DETECTRON2_FILES", f"{address}/")
    assert download(f"{address}/R_50/1/model_final_{digits}.pkl").read_bytes() == content
    with pytest.raises(ValueError, match=rf"its md5 is {digits}\w{{26}}, it should begin with 000000; delete it"):
        download(f"{address}/R_50/1/model_final_000000.pkl")


def test_a_connection_that_ends_early_leaves_nothing(site, tmp_path):
    files, _, address = site
    put(files, "/w.pth", b"half", promised=8)
    with pytest.raises(ConnectionError, match=r"Put the file at .*w\.pth \(DETFRAME_CACHE .*, or set MODEL\.WEIGHTS"):
        download(f"{address}/w.pth")
    assert leftovers(tmp_path) == []


def test_offline_touches_no_network(site, monkeypatch):
    files, requests, address = site
    put(files, "/w.pth", b"content")
    monkeypatch.setenv("DETFRAME_OFFLINE", "1")
    place = cache_path(f"{address}/w.pth")
    with pytest.raises(FileNotFoundError, match=rf"DETFRAME_OFFLINE.*put the file at {place}"):
        download(f"{address}/w.pth")
    assert not requests
    place.parent.mkdir(parents=True)
    place.write_bytes(b"by hand")
    assert download(f"{address}/w.pth").read_bytes() == b"by hand" and not requests
    monkeypatch.setenv("DETFRAME_OFFLINE", "0")
    assert download(f"{address}/v.pth#sha256={put(files, '/v.pth', b'v')}").read_bytes() == b"v"


def test_files_of_one_name_do_not_meet(site):
    files, _, address = site
    put(files, "/msra/R-50.pkl", b"one")
    put(files, "/other/R-50.pkl", b"two")
    assert download(f"{address}/msra/R-50.pkl").read_bytes() == b"one"
    assert download(f"{address}/other/R-50.pkl").read_bytes() == b"two"


@pytest.mark.parametrize("fragment", ["sha256=12", "md5=" + "0" * 32, "sha256=" + "g" * 64])
def test_a_malformed_digest(fragment):
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        split_digest(f"https://host.example/w.pth#{fragment}")


def test_without_a_cache_of_its_own_the_folder_is_pytorch_hubs(tmp_path, monkeypatch):
    monkeypatch.delenv("DETFRAME_CACHE", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    expected = tmp_path / "hub" / "checkpoints" / "resnet50-0676ba61.pth"
    assert cache_path("https://host.example/models/resnet50-0676ba61.pth") == expected


@pytest.mark.parametrize("name", ["w.pth", "net-01234567.pth"])
def test_http_needs_a_digest(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path))
    address = f"http://host.invalid/{name}"
    with pytest.raises(ValueError, match=rf"{address} is not fetched over http: .*https.*#sha256="):
        download(address)
    with pytest.raises(ConnectionError, match="cannot download"):  # it is tried
        download(f"{address}#sha256={'0' * 64}")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("target", ["http://host.invalid/w.pth", "ftp://host.invalid/w.pth"])
def test_an_address_that_leads_to_an_open_line(site, monkeypatch, target):
    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            with pytest.raises(ValueError, match=rf"127\.0\.0\.1.* is not fetched .*it leads to {target}"):
                download(f"http://127.0.0.1:{server.server_port}/w.pth")
        finally:
            server.shutdown()
            thread.join()


def test_a_file_larger_than_the_disk_is_not_begun(site, tmp_path, monkeypatch):
    files, _, address = site
    put(files, "/w.pth", b"content", promised=10**17)
    with pytest.raises(ConnectionError, match=r"the file has 100000000000000000 bytes; \d+ are free"):
        download(f"{address}/w.pth")
    monkeypatch.setattr("detframe.compat.download.MAX_SIZE", 3)
    put(files, "/v.pth", b"content")
    with pytest.raises(ConnectionError, match="the file has 7 bytes"):
        download(f"{address}/v.pth")
    assert leftovers(tmp_path) == []


def test_a_cache_that_cannot_be_written_names_the_variable(site, tmp_path, monkeypatch):
    files, _, address = site
    put(files, "/w.pth", b"content")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheError, match="the environment variable DETFRAME_CACHE to a folder that can be written"):
        download(f"{address}/w.pth")
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "detframe.compat.download._copy", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
    )
    with pytest.raises(CacheError, match=r"w\.pth is downloaded.*full.*make room, or set .* DETFRAME_CACHE"):
        download(f"{address}/w.pth")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("path", ["/a/..", "/..", "/.", "/a\\..\\b", "/" + "x" * 1000, "/%00", "/a\x01b", ""])
def test_no_address_leads_out_of_the_cache(path, tmp_path, monkeypatch):
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path))
    place = cache_path(f"https://host.invalid{path}")
    assert place.parent.parent == tmp_path / "weights" and place.name not in (".", "..") and len(place.name) < 200
    assert place.resolve() == place.absolute()


def test_what_is_no_address():
    with pytest.raises(ValueError, match="is no address"):
        download("https://[half/w.pth")
