"""Download a file by HTTP: streamed, bounded in size and time, retried only where that can help.

Notable:
- a broken download resumes where it ended, as often as each answer brings more bytes
- transient: no answer in time, a broken or short body, 408, 425, 429 and 5xx; everything else fails at once
- a host that cannot be reached is not asked again in the same run
- a client's own timeouts restart with every byte, so there are overall limits too: for the head of an answer, for each
  piece of its body, and for the average speed
- bytes are taken as sent (`Accept-Encoding: identity`), so that their number is known before they are written
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError

CHUNK = 1 << 18
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
Value = TypeVar("Value")


class DownloadFailed(Exception):
    """A download failed; the message says why."""


class _Transient(DownloadFailed):
    """A failure that a retry may mend."""


@dataclass
class Downloader:
    """Downloads files by HTTP.

    Attributes:
        connect_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait for the next bytes.
        slowest: Bytes a second, on average, below which a download is given up, after `patience`.
        tries: How often an address is asked without getting anything, the first time included.
        backoff: Seconds before the second try; doubled for each one after.
        headers: Headers by host, such as an access token for the hub.
    """

    connect_timeout: float = 5
    read_timeout: float = 30
    slowest: float = 20_000
    tries: int = 3
    backoff: float = 1
    headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    _unreachable: dict[str, str] = field(default_factory=dict)

    @property
    def patience(self) -> float:
        """Seconds for anything that a server can prolong by sending single bytes."""
        return self.tries * self.read_timeout

    def download(self, url: str, out: BinaryIO, size: int, exact: bool = True) -> None:
        """Write the file at `url` to `out`.

        Args:
            url: An http or https address.
            out: A seekable file; on failure it may hold a part.
            size: The file's size in bytes; a larger body is refused.
            exact: Refuse a smaller one too.

        Raises:
            DownloadFailed: The file can't be had here.
        """
        host = urlsplit(url).netloc
        if host in self._unreachable:
            raise DownloadFailed(f"{self._unreachable[host]} (asked before)")
        out.seek(0)
        out.truncate()
        begun, failed, furthest = time.monotonic(), 0, 0
        while True:
            try:
                return self._try(url, host, out, size, exact, begun)
            except _Transient as error:
                failed = 0 if out.tell() > furthest else failed + 1
                furthest = max(furthest, out.tell())
                if failed == self.tries:
                    raise DownloadFailed(f"{error} ({self.tries} tries)") from None
                time.sleep(self.backoff * 2 ** max(0, failed - 1))

    def _try(self, url: str, host: str, out: BinaryIO, size: int, exact: bool, begun: float) -> None:
        """Append the missing bytes to `out`."""
        headers = {"Accept-Encoding": "identity", **self.headers.get(host, {})}
        if out.tell():
            headers["Range"] = f"bytes={out.tell()}-"
        timeout = (self.connect_timeout, self.read_timeout)
        try:
            with call_with_timeout(
                self.patience, lambda: requests.get(url, headers=headers, stream=True, timeout=timeout)
            ) as response:
                status = response.status_code
                if status in TRANSIENT_STATUS:
                    raise _Transient(f"status {status}")
                first = response.headers.get("Content-Range", "").split("-")[0]
                if not (status == 206 and first == f"bytes {out.tell()}"):
                    out.seek(0)
                    out.truncate()
                    if status in (206, 416):
                        raise _Transient(f"status {status}, asked for the rest of the file")
                    if status != 200:
                        raise DownloadFailed(f"status {status}")
                self._copy(response, out, size, exact, begun)
        except (requests.exceptions.Timeout, TimeoutError) as error:
            raise _Transient(f"no answer in time: {type(error).__name__}") from None
        except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
            raise DownloadFailed(f"{type(error).__name__}: {error}") from None
        except requests.exceptions.ConnectionError as error:
            if _never_connected(error):
                self._unreachable[host] = f"cannot connect to {host}"
                raise DownloadFailed(self._unreachable[host]) from None
            raise _Transient("connection broken") from None
        except requests.exceptions.RequestException as error:
            raise DownloadFailed(f"{type(error).__name__}: {error}") from None
        except HTTPError as error:
            raise _Transient(f"body broken off after {out.tell()} bytes: {type(error).__name__}") from None

    def _copy(self, response: requests.Response, out: BinaryIO, size: int, exact: bool, begun: float) -> None:
        """Append the body to `out`."""
        allowed = f"the {'pinned' if exact else 'possible'} {size} bytes"
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit() and out.tell() + int(announced) > size:
            raise DownloadFailed(f"{out.tell() + int(announced)} bytes announced, more than {allowed}")
        progress = tqdm(
            total=size if exact else None, initial=out.tell(), desc=url_name(response.url),
            unit="B", unit_scale=True, leave=False, disable=None,
        )  # fmt: skip
        with progress:
            while chunk := self._read(response):
                if out.tell() + len(chunk) > size:
                    raise DownloadFailed(f"more than {allowed}")
                out.write(chunk)
                progress.update(len(chunk))
                elapsed = time.monotonic() - begun
                if elapsed > self.patience + out.tell() / self.slowest:
                    raise DownloadFailed(f"too slow: {out.tell()} bytes in {elapsed:.0f} s")
        if exact and out.tell() < size:
            raise _Transient(f"body broken off after {out.tell()} of {size} bytes")

    def _read(self, response: requests.Response) -> bytes:
        """Read the next bytes of the body; empty at its end, and where a piece takes too long."""
        late = threading.Timer(self.patience, response.raw.shutdown)
        late.daemon = True
        late.start()
        try:
            return response.raw.read1(CHUNK, decode_content=False)
        finally:
            late.cancel()


def call_with_timeout(seconds: float, call: Callable[[], Value]) -> Value:
    """Call a function in a thread; raise TimeoutError where it takes longer."""
    outcome: Future[Value] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result(seconds)


def url_name(url: str) -> str:
    """File name of an address."""
    return urlsplit(url).path.rsplit("/", 1)[-1]


def _never_connected(error: requests.exceptions.ConnectionError) -> bool:
    """Whether the host is unknown or refused the connection: a retry does not help then."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return type(reason).__name__ in ("NameResolutionError", "NewConnectionError")
