"""Where checkpoints are published, and fetching them: only when asked to, and in pieces if the network fails.

The addresses are those of deepspeech.pytorch's releases on GitHub, as its own tests and ART 1.20 name them. Its authors
publish no checksums: the one to pin is that of the first download.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from armory_mdnf.errors import BundleError, OptionError, choices, quoted
from armory_mdnf.files.atomic import ensure_writable_folder
from armory_mdnf.files.foreign import is_torch_file
from armory_mdnf.files.provenance import sha256_of

_V2 = "https://github.com/SeanNaren/deepspeech.pytorch/releases/download/v2.0"
_V3 = "https://github.com/SeanNaren/deepspeech.pytorch/releases/download/V3.0"

PUBLISHED: dict[str, str] = {
    "librispeech_v3": f"{_V3}/librispeech_pretrained_v3.ckpt",
    "an4_v3": f"{_V3}/an4_pretrained_v3.ckpt",
    "ted_v3": f"{_V3}/ted_pretrained_v3.ckpt",
    "librispeech_v2": f"{_V2}/librispeech_pretrained_v2.pth",
    "an4_v2": f"{_V2}/an4_pretrained_v2.pth",
    "ted_v2": f"{_V2}/ted_pretrained_v2.pth",
}
TIMEOUT_S = 30
BLOCK = 1 << 18


def download(name: str, folder: str | os.PathLike[str] = ".", sha256: str | None = None) -> Path:
    """Fetch a published checkpoint into ``folder``, going on with what an interrupted download left there.

    A file that is there already is not fetched again. Raises :class:`OptionError` for an unknown name,
    :class:`BundleError` if the network or the checksum fails.
    """
    if name not in PUBLISHED:
        raise OptionError(choices(name, PUBLISHED, "published checkpoint"))
    if sha256 is not None and (len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef")):
        raise OptionError(f"expected a SHA-256 of 64 hexadecimal digits, got {quoted(sha256)}")
    return fetch(PUBLISHED[name], Path(folder), sha256.lower() if sha256 else None)


def fetch(url: str, folder: Path, sha256: str | None) -> Path:
    """Fetch a file through pooch, and check it. Raises :class:`BundleError` naming the address."""
    try:
        import pooch
        import requests
    except ImportError as error:
        raise BundleError(
            f"downloading needs pooch: pip install 'armory-mdnf[download]', or fetch {url} by other means"
        ) from error
    path = folder / url.rsplit("/", 1)[1]
    if path.exists():
        _check(path, "is there already")
        if sha256 is not None and (found := sha256_of(path)) != sha256:
            raise BundleError(f"{path} is there already, with SHA-256 {found}, expected {sha256}; move it away")
        return path
    ensure_writable_folder(folder)
    partial = path.with_name(f"{path.name}.partial")
    known = None if sha256 is None else f"sha256:{sha256}"
    try:
        pooch.retrieve(url, known, path.name, folder, downloader=_Resuming(partial))
    except requests.HTTPError as error:
        raise BundleError(f"{url}: the server has no such file: {error}") from error
    except (requests.RequestException, OSError) as error:
        kept = f" {partial} has what came; run the same again to go on." if partial.exists() else ""
        raise BundleError(
            f"cannot reach {urlsplit(url).netloc} ({type(error).__name__}): is this machine offline?{kept} Or fetch "
            f"{url} elsewhere and give the file to `armory-mdnf checkpoint convert`."
        ) from error
    except ValueError as error:  # pooch's word for a checksum that does not fit
        raise BundleError(f"{url}: {error}") from error
    _check(path, "is what came")
    return path


def _check(path: Path, how: str) -> None:
    """Raise :class:`BundleError` for what cannot be the file, so that nobody pins its checksum."""
    if not path.is_file() or not is_torch_file(path):
        found = "no file" if not path.is_file() else "empty" if not path.stat().st_size else "no checkpoint of torch"
        raise BundleError(f"{path} {how}, and is {found}: move it away and run the same again")


class _Resuming:
    """A downloader for pooch that keeps what it has next to the target and asks for the rest."""

    def __init__(self, partial: Path) -> None:
        self.partial = partial

    def __call__(self, url: str, output_file: Any, pooch: Any) -> None:
        import requests

        have = self.partial.stat().st_size if self.partial.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                self.partial.unlink()  # longer than the file: not what it was taken for
                return self(url, output_file, pooch)
            response.raise_for_status()
            goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            with self.partial.open("ab" if have and goes_on else "wb") as f:
                self._copy(response, f)
        os.replace(self.partial, output_file)
        return None

    def _copy(self, response: Any, file: IO[bytes]) -> None:
        from tqdm import tqdm

        total = file.tell() + int(response.headers.get("Content-Length", 0)) or None
        with tqdm(total=total, initial=file.tell(), unit="B", unit_scale=True, file=sys.stderr, disable=None) as bar:
            for block in response.iter_content(BLOCK):
                file.write(block)
                bar.update(len(block))
