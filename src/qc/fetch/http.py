"""Download a file by HTTP: streamed, bounded in size, and tried again only where that can help.

Notable:
- a broken download continues where it ended, as often as each answer brings more bytes; only within a run
- transient: no answer in time, a broken or short body, 408, 425, 429 and 5xx; everything else fails at once
- a host that cannot be reached is not asked again in the same run
- bytes are taken as sent (`Accept-Encoding: identity`): nothing unpacks to more than the limit
- the access token goes to the hub alone; a redirect to another host, port or scheme loses it (`httpx2` sees to that)
"""

import time
from collections.abc import Mapping
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, is_offline_mode
from huggingface_hub.utils import build_hf_headers
from tqdm import tqdm

TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
ACCESS = "if you have access, set HF_TOKEN; it is sent over https only"
REASONS = {  # what the hub says in X-Error-Code
    "GatedRepo": f"gated: its owner gives access on the hub; ask for it there; {ACCESS}",
    "RepoNotFound": f"the hub knows no such repository, or shows it only to some; {ACCESS}",
    "RevisionNotFound": "the hub knows no such commit of this repository",
    "EntryNotFound": "the hub has no such file in this repository",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Unavailable(Exception):
    """A place does not give a file; the message says why."""


class _Transient(Unavailable):
    """A failure worth a retry."""


def hub_headers(url: str) -> Mapping[str, str]:
    """Headers of the hub's client for an address of the hub, none for another.

    The access token is sent over https or to loopback only.

    Raises:
        Unavailable: HF_HUB_OFFLINE forbids asking the hub.
    """
    if not url.startswith(f"{constants.ENDPOINT}/"):
        return {}
    if is_offline_mode():
        raise Unavailable("HF_HUB_OFFLINE is set")
    address = urlsplit(url)
    private = address.scheme == "https" or address.hostname in LOOPBACK
    return build_hf_headers(token=None if private else False)


class Downloader:
    """Downloads files by HTTP.

    Args:
        connect: Seconds to wait for a connection.
        read: Seconds to wait for the next bytes.
        tries: How often an address is asked without getting anything, the first time included.
        pause: Seconds before the second try; doubled for each one after.
    """

    def __init__(self, connect: float = 5, read: float = 20, tries: int = 3, pause: float = 1) -> None:
        self._tries, self._pause = tries, pause
        self._client = httpx2.Client(follow_redirects=True, timeout=httpx2.Timeout(read, connect=connect))
        self._unreachable: dict[str, str] = {}

    def download(self, url: str, out: BinaryIO, limit: int, expected: int = 0) -> None:
        """Write the file at an http or https address, at most `limit` bytes, to `out`, an empty file.

        A body of no stated length is broken off where it has fewer than `expected` bytes. On failure `out` may hold a
        part.

        Raises:
            Unavailable: The file cannot be downloaded from this address.
        """
        host = urlsplit(url).netloc
        if host in self._unreachable:
            raise Unavailable(f"{self._unreachable[host]} (asked before)")
        failed = furthest = 0
        while True:
            try:
                return self._continue(url, out, limit, expected)
            except _Transient as error:
                failed = 0 if out.tell() > furthest else failed + 1
                furthest = max(furthest, out.tell())
                if failed == self._tries:
                    raise Unavailable(f"{error} ({self._tries} tries)") from None
                time.sleep(self._pause * 2 ** max(0, failed - 1))

    def _continue(self, url: str, out: BinaryIO, limit: int, expected: int) -> None:
        """Append the missing bytes to `out`."""
        try:
            headers = {**hub_headers(url), "Accept-Encoding": "identity"}
            if out.tell():
                headers["Range"] = f"bytes={out.tell()}-"
            with self._client.stream("GET", url, headers=headers) as response:
                _check_answer(response, out)
                size = out.tell() + int(response.headers.get("Content-Length", 0))
                bar = tqdm(desc=url.rsplit("/", 1)[-1], total=size or None, initial=out.tell(), unit="B",
                           unit_scale=True, leave=False, disable=None)  # fmt: skip
                with bar:
                    for chunk in response.iter_raw():
                        if max(size, out.tell() + len(chunk)) > limit:
                            raise Unavailable(f"larger than the {limit} bytes that it may have")
                        out.write(chunk)
                        bar.update(len(chunk))
                if "Content-Length" not in response.headers and out.tell() < expected:
                    raise _Transient(f"broken off after {out.tell()} bytes")
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            host = error.request.url.netloc.decode()
            self._unreachable[host] = f"cannot connect to {host}: {error}"
            raise Unavailable(self._unreachable[host]) from None
        except httpx2.TimeoutException as error:
            raise _Transient(f"no answer in time: {type(error).__name__}") from None
        except (httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
            raise _Transient(f"broken off after {out.tell()} bytes: {error}") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise Unavailable(f"{type(error).__name__}: {error}") from None


def _check_answer(response: httpx2.Response, out: BinaryIO) -> None:
    """Raise `Unavailable` unless the body is the file from the end of `out` on; empty `out` where it is the whole."""
    status = response.status_code
    if status in TRANSIENT_STATUS:
        raise _Transient(f"status {status}")
    if status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {out.tell()}-"):
        return
    out.seek(0)
    out.truncate()
    if status in (206, 416):
        raise _Transient(f"status {status}, asked for the rest of the file")
    if status != 200:
        remedy = f"; {ACCESS}" if status in (401, 403) else ""
        raise Unavailable(REASONS.get(response.headers.get("X-Error-Code"), f"status {status}{remedy}"))
