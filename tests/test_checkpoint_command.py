"""``armory-mdnf checkpoint``: what it says, what it writes, and downloads from a server on this machine."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import tiny_recognizer
from foreign_files import v2_package
from safetensors import SafetensorError
from test_vocoder_checkpoints import checkpoint

from armory_mdnf.asr.checkpoints import load_recognizer, save_recognizer
from armory_mdnf.asr.whisper.ctc import WhisperCTC, WhisperCTCConfig
from armory_mdnf.checkpoints import published
from armory_mdnf.cli import main
from armory_mdnf.files.provenance import sha256_of
from armory_mdnf.vocoders import load_vocoder

pytestmark = pytest.mark.usefixtures("closes_files")

DATA = Path(__file__).parent / "data"
CONTENT = b"PK" + bytes(range(254)) * 4096


def test_inspect_says_what_a_v3_recogniser_holds(capsys: pytest.CaptureFixture[str]) -> None:
    path = DATA / "deepspeech2" / "unilstm.ckpt"
    assert main(["checkpoint", "inspect", str(path), "--sha256", sha256_of(path).upper()]) == 0
    printed = capsys.readouterr().out
    for fact in (
        "deepspeech.pytorch V3 Lightning checkpoint",
        "2 x 40 LSTM, with lookahead 20; 32 convolution channels",
        '"_\'ABCDEFGHIJKLMNOPQRSTUVWXYZ ", 29 classes',
        "16000 Hz, hamming window of 20 ms every 10 ms",
        "483,048",
        sha256_of(path),
        "left:   lr_schedulers",
    ):
        assert fact in printed


def test_convert_writes_a_recogniser_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original, path, out = tiny_recognizer(), tmp_path / "m.pth", tmp_path / "m.safetensors"
    torch.save(v2_package(original), path)
    assert main(["checkpoint", "convert", str(path), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "deepspeech.pytorch V2 package" in printed
    assert "mapped: 41 weights, under the same names" in printed
    assert "left:   optim_dict" in printed
    assert sha256_of(out) in printed
    x, lengths = torch.randn(1, 4000), torch.tensor([4000])
    loaded = load_recognizer(out)
    torch.testing.assert_close(loaded(x, lengths)[0], original(x, lengths)[0], atol=1e-3, rtol=1e-4)
    assert main(["checkpoint", "inspect", str(out)]) == 0
    assert "armory-mdnf bundle, deepspeech2" in capsys.readouterr().out
    assert main(["checkpoint", "inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == sha256_of(out)
    assert main(["checkpoint", "convert", str(path), str(tmp_path / "again.safetensors"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "optim_dict" in " ".join(told["left"])
    assert told["out"] == str(tmp_path / "again.safetensors")


def test_convert_writes_a_vocoder_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = checkpoint(tmp_path, "parallel_wavegan.v1"), tmp_path / "v.safetensors"
    (tmp_path / "elsewhere").mkdir()
    stats = (tmp_path / "stats.h5").rename(tmp_path / "elsewhere" / "stats.h5")
    assert main(["checkpoint", "convert", str(path), str(out)]) == 2
    assert "say where it is with --stats" in capsys.readouterr().err
    assert main(["checkpoint", "convert", str(path), str(out), "--stats", str(stats)]) == 0
    printed = capsys.readouterr().out
    assert "mapped: normalisation, from stats.h5" in printed
    assert "left:   model: discriminator" in printed
    assert load_vocoder(out).needs_noise
    assert main(["checkpoint", "inspect", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "80 bins from 80 to 7600 Hz, n_fft 1024, hop 256" in printed
    assert "each bin normalised" in printed


def test_what_cannot_be_converted_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, other, text = tmp_path / "m.safetensors", tmp_path / "other.pt", tmp_path / "text.pt"
    save_recognizer(bundle, tiny_recognizer(), {})
    torch.save({"weights": 1, "epoch": 2}, other)
    text.write_text("no checkpoint")
    before = bundle.read_bytes()
    for arguments, message in (
        (["convert", str(bundle), str(bundle)], "is the checkpoint itself"),
        (["convert", str(bundle), str(tmp_path / "m.pt")], "ends in .safetensors"),
        (["inspect", str(tmp_path / "none.pt")], "no checkpoint at"),
        (["inspect", str(text)], "text.pt is not a readable checkpoint"),
        (["inspect", str(other)], "Found: weights, epoch"),
        (["inspect", str(bundle), "--sha256", "0" * 64], f"expected SHA-256 {'0' * 64}, found {sha256_of(bundle)}"),
    ):
        assert main(["checkpoint", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert bundle.read_bytes() == before


def test_inspect_says_what_a_whisper_with_a_ctc_head_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, copy = tmp_path / "w.safetensors", tmp_path / "copy.safetensors"
    sizes = {"n_mels": 80, "d_model": 32, "layers": 2, "heads": 2, "ffn": 48}
    save_recognizer(path, WhisperCTC(WhisperCTCConfig(**sizes)), {"steps": 3})
    assert main(["checkpoint", "inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    for fact in (
        "armory-mdnf bundle, whisper_ctc (steps 3)",
        "recogniser, Whisper's encoder with a CTC head",
        "2 x 32, 2 heads",
        "29 classes, the first is the blank",
        "16000 Hz, log mel of 80 bins",
    ):
        assert fact in printed
    assert main(["checkpoint", "convert", str(path), str(copy)]) == 0
    weights, copied = (load_recognizer(p).state_dict() for p in (path, copy))
    assert all(torch.equal(copied[key], value) for key, value in weights.items())


@pytest.mark.parametrize("folder", ["there", "there/new", "file", "file/below"])
def test_a_target_that_cannot_be_written_is_refused_before_the_checkpoint_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """The file here is none that can be read; what is said is that the target cannot be written."""
    source, out = tmp_path / "m.pth", tmp_path / folder / "m.safetensors"
    source.write_bytes(b"no checkpoint")
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    if folder.startswith("there"):

        def full(*args: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["checkpoint", "convert", str(source), str(out)]) == 2
    error = capsys.readouterr().err
    assert f"cannot write {out}" in error
    assert error.count("\n") == 1


def test_a_disk_that_fills_up_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "m.pth", tmp_path / "m.safetensors"
    torch.save(v2_package(tiny_recognizer()), source)

    def full(*args: object, **options: object) -> None:
        raise SafetensorError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })')

    monkeypatch.setattr("safetensors.torch.save_file", full)
    assert main(["checkpoint", "convert", str(source), str(out)]) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "the checkpoint is as it was" in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["m.pth"]


def test_names_in_a_file_are_printed_cut_and_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.pth"
    more = {f"\x1b[2J\n{i}" * 50: 1 for i in range(1000)}
    torch.save(v2_package(tiny_recognizer(), **more), path)
    assert main(["checkpoint", "inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert len(printed) < 30_000
    assert f"left:   {len(more) + 2 - 100} more" in printed
    torch.save(more, path)
    assert main(["checkpoint", "inspect", str(path)]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert len(error) < 2000


class Server(http.server.BaseHTTPRequestHandler):
    """Serves :data:`CONTENT`, with ranges; ``stops`` lists after how many bytes it hangs up, a request each."""

    stops: list[int]
    asked: list[str | None]
    ranges = True

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if not self.path.endswith("m.ckpt"):
            self.send_error(404)
            return
        if first > len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - first))
        self.end_headers()
        stop = self.stops.pop(0) if self.stops else len(CONTENT)
        self.wfile.write(CONTENT[first:stop])

    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    pytest.importorskip("pooch")
    handler = type("Handler", (Server,), {"stops": [], "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listening.server_address[1]}"
        monkeypatch.setattr(published, "PUBLISHED", {"mine": f"{address}/m.ckpt", "gone": f"{address}/gone.ckpt"})
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield handler
        listening.shutdown()


CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


def test_download_checks_the_pinned_checksum(
    server: type[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["checkpoint", "download", "mine", "--out", str(tmp_path / "new")]
    assert main([*options, "--sha256", "0" * 64]) == 2
    assert "does not match" in capsys.readouterr().err
    assert not list((tmp_path / "new").iterdir())
    assert main([*options, "--sha256", CHECKSUM.upper()]) == 0
    assert f"{CHECKSUM} (as expected)" in capsys.readouterr().out
    assert (tmp_path / "new" / "m.ckpt").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["m.ckpt"]
    requests_so_far = len(server.asked)
    assert main([*options, "--json"]) == 0  # it is there: nothing is fetched
    told = json.loads(capsys.readouterr().out)
    assert told == {"path": str(tmp_path / "new" / "m.ckpt"), "sha256": CHECKSUM, "checked": False}
    assert main(options) == 0
    assert "not checked: pin it" in capsys.readouterr().out
    assert main([*options, "--sha256", "0" * 64]) == 2
    assert "is there already, with SHA-256" in capsys.readouterr().err
    assert len(server.asked) == requests_so_far


@pytest.mark.parametrize(
    ("content", "found"), [(b"", "empty"), (b"<html>sign in</html>", "no checkpoint of torch"), (None, "no file")]
)
def test_what_cannot_be_the_file_is_not_offered_for_pinning(
    server: type[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, found: str
) -> None:
    path = tmp_path / "m.ckpt"
    path.mkdir() if content is None else path.write_bytes(content)
    assert main(["checkpoint", "download", "mine", "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert f"m.ckpt is there already, and is {found}: move it away" in printed.err
    assert "sha256" not in printed.out
    assert server.asked == []


def test_a_page_in_place_of_the_file_is_refused(
    server: type[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "CONTENT", b"<html>sign in</html>")
    assert main(["checkpoint", "download", "mine", "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "m.ckpt is what came, and is no checkpoint of torch" in printed.err
    assert "sha256" not in printed.out


def test_a_folder_that_cannot_be_written_is_refused_before_the_download(
    server: type[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for out in ("file", "file/below"):
        assert main(["checkpoint", "download", "mine", "--out", str(tmp_path / out)]) == 2
        assert f"cannot write to the folder {tmp_path / out}" in capsys.readouterr().err
    assert server.asked == []


def test_models_of_the_hub_are_downloaded_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the hf extra is not installed")
    asked = []

    def snapshot(name: str, **options: object) -> str:
        asked.append((name, options["local_files_only"]))
        return str(tmp_path / "cache")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert main(["checkpoint", "download", "hf:openai/whisper-tiny"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'cache'}\n"
    assert asked == [("openai/whisper-tiny", False)]
    for option in (["--out", str(tmp_path)], ["--sha256", "0" * 64]):
        assert main(["checkpoint", "download", "hf:openai/whisper-tiny", *option]) == 2
        assert "goes to Hugging Face's own cache: leave out --out and --sha256" in capsys.readouterr().err


def test_an_interrupted_download_goes_on(
    server: type[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.stops = [400_000, 700_000]
    options = ["checkpoint", "download", "mine", "--out", str(tmp_path), "--sha256", CHECKSUM]
    for _ in range(2):
        assert main(options) == 2
        assert "m.ckpt.partial has what came; run the same again" in capsys.readouterr().err
        assert not (tmp_path / "m.ckpt").exists()
    assert main(options) == 0
    assert server.asked[0] is None
    assert all(asked and int(asked[6:-1]) > 0 for asked in server.asked[1:])
    assert [p.name for p in tmp_path.iterdir()] == ["m.ckpt"]


@pytest.mark.parametrize("have", [100_000, len(CONTENT) + 1])
def test_a_server_without_ranges_and_a_foreign_partial_file(server: type[Server], tmp_path: Path, have: int) -> None:
    server.ranges = have > len(CONTENT)
    (tmp_path / "m.ckpt.partial").write_bytes(b"x" * have)
    assert main(["checkpoint", "download", "mine", "--out", str(tmp_path), "--sha256", CHECKSUM]) == 0


def test_a_file_that_is_gone_and_a_name_that_is_unknown(
    server: type[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoint", "download", "gone", "--out", str(tmp_path)]) == 2
    assert "the server has no such file: 404" in capsys.readouterr().err
    assert main(["checkpoint", "download", "min", "--out", str(tmp_path)]) == 2
    assert (
        "unknown published checkpoint 'min', expected one of gone, mine; did you mean 'mine'" in capsys.readouterr().err
    )
    assert main(["checkpoint", "download", "mine", "--sha256", "abc"]) == 2
    assert "64 hexadecimal digits" in capsys.readouterr().err


def test_offline_is_said_plainly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pooch")

    def unreachable(*args: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    assert main(["checkpoint", "download", "librispeech_v3", "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "cannot reach github.com (ConnectionError): is this machine offline?" in message
    assert "librispeech_pretrained_v3.ckpt elsewhere and give the file to `armory-mdnf checkpoint convert`" in message
    assert not list(tmp_path.iterdir())


def test_without_pooch_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert main(["checkpoint", "download", "an4_v2", "--out", str(tmp_path)]) == 2
    assert "pip install 'armory-mdnf[download]'" in capsys.readouterr().err


def test_the_table_names_every_corpus_in_both_versions() -> None:
    assert set(published.PUBLISHED) == {f"{name}_v{v}" for name in ("librispeech", "an4", "ted") for v in (2, 3)}
    for name, url in published.PUBLISHED.items():
        corpus, version = name.rsplit("_v", 1)
        assert url.startswith("https://github.com/SeanNaren/deepspeech.pytorch/releases/download/")
        assert url.endswith(f"/{corpus}_pretrained_v{version}.{'ckpt' if version == '3' else 'pth'}")
