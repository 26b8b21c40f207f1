"""One file by HTTP: streamed, bounded in size and time, retried only where trying again can help.

Notable:
- transient: no answer in time, a broken or short body, 408, 425, 429 and 5xx; everything else fails at once
- a host that can't be reached is not asked again in the same run
- bytes are taken as sent (`Accept-Encoding: identity`), so that their number is known before they are written
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError

CHUNK = 1 << 18
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


class DownloadFailed(Exception):
    """A file can't be had from an address; the message says why."""


class _Transient(DownloadFailed):
    """Trying again may help."""


@dataclass
class Downloader:
    """Reads files by HTTP.

    Attributes:
        connect_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait for the next bytes.
        slowest: Bytes a second below which a download is given up, after `read_timeout` of grace.
        tries: How often an address is asked, the first time included.
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

    def download(self, url: str, out: BinaryIO, size: int) -> None:
        """Write the file at `url` to `out`.

        Args:
            url: An http or https address.
            out: A seekable file; on failure it may hold a part.
            size: The file's size in bytes; a body of any other size is refused.

        Raises:
            DownloadFailed: The file can't be had here.
        """
        host = urlsplit(url).netloc
        if host in self._unreachable:
            raise DownloadFailed(f"{self._unreachable[host]} (asked before)")
        for attempt in range(1, self.tries + 1):
            try:
                return self._try(url, host, out, size)
            except _Transient as error:
                if attempt == self.tries:
                    raise DownloadFailed(f"{error} ({attempt} tries)") from None
                time.sleep(self.backoff * 2 ** (attempt - 1))

    def _try(self, url: str, host: str, out: BinaryIO, size: int) -> None:
        out.seek(0)
        out.truncate()
        deadline = time.monotonic() + self.read_timeout + size / self.slowest
        headers = {"Accept-Encoding": "identity", **self.headers.get(host, {})}
        timeout = (self.connect_timeout, self.read_timeout)
        try:
            with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
                if response.status_code in TRANSIENT_STATUS:
                    raise _Transient(f"status {response.status_code}")
                if response.status_code != 200:
                    raise DownloadFailed(f"status {response.status_code}")
                self._copy(response, out, size, deadline)
        except requests.exceptions.Timeout as error:
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
            raise _Transient(f"body broken off: {type(error).__name__}") from None

    def _copy(self, response: requests.Response, out: BinaryIO, size: int, deadline: float) -> None:
        announced = response.headers.get("Content-Length", "")
        if announced.isdigit() and int(announced) > size:
            raise DownloadFailed(f"{announced} bytes announced, {size} were pinned")
        written = 0
        with tqdm(total=size, desc=url_name(response.url), unit="B", unit_scale=True, leave=False, disable=None) as bar:
            while chunk := response.raw.read1(CHUNK, decode_content=False):
                written += len(chunk)
                if written > size:
                    raise DownloadFailed(f"more than the pinned {size} bytes")
                if time.monotonic() > deadline:
                    raise DownloadFailed(f"too slow: {written} of {size} bytes in the time for all")
                out.write(chunk)
                bar.update(len(chunk))
        if written < size:
            raise _Transient(f"body broken off after {written} of {size} bytes")


def url_name(url: str) -> str:
    """The last part of an address's path."""
    return urlsplit(url).path.rsplit("/", 1)[-1]


def _never_connected(error: requests.exceptions.ConnectionError) -> bool:
    """Whether the host has no address or refused: there trying again at once does not help."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return type(reason).__name__ in ("NameResolutionError", "NewConnectionError")
