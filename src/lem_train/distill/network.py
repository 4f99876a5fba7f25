"""How machines that distil together find and trust one another; dask.distributed carries it all.

dask sends functions and errors as pickles: who may connect may run code on the coordinator and on
every worker. So without a key nothing listens, and nobody connects, beyond the loopback.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigError

DEFAULT_PORT = 8786  # dask's own
LOST_AFTER_SECONDS = 60
"""Without a heartbeat a worker counts as lost after this long, or twice as long at worst, and its
unit goes to another. A process that dies is missed at once: its connection closes."""
_MAKE_KEY = (
    "openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=lem "
    "-keyout lem.pem -out lem.pem"
)
_SETTINGS = {
    "distributed.scheduler.worker-ttl": f"{LOST_AFTER_SECONDS}s",
    "distributed.scheduler.allowed-failures": 3,
    "distributed.comm.timeouts.connect": "10s",
    "distributed.comm.timeouts.tcp": "30s",
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    # dask's web servers, on the loopback, have no pages.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


@dataclass(frozen=True)
class Place:
    """Where a scheduler listens, and the key file that those who take part share, if any."""

    host: str
    port: int
    key: Path | None

    @property
    def protocol(self) -> str:
        """dask's name of the transport."""
        return "tls" if self.key else "tcp"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}"


def place(address: str, key: Path | None, option: str) -> Place:
    """`HOST`, `HOST:PORT` or what `lem distill` shows, e.g. tcp://192.168.1.2:8786.

    Args:
        key: PEM file with certificate and private key: the secret that all who take part share.
        option: what the user calls the address.

    Raises:
        ConfigError: no such address, one beyond the loopback without a key, or a key file that
            cannot be used.
    """
    try:
        parts = urlsplit(f"//{address.removeprefix('tcp://').removeprefix('tls://')}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.path or parts.query or parts.username:
        raise ConfigError(f"{option}: expected HOST or HOST:PORT, got {address!r}")
    if key is None and not _is_loopback(host):
        raise ConfigError(
            f"{option}: expected --tls FILE for an address beyond this machine, since who may "
            f"connect may run code on all of them, got {address!r} alone; make one file, copy it "
            f"to every machine: {_MAKE_KEY}"
        )
    if key is not None:
        _check_key(key)
    return Place(host, DEFAULT_PORT if port is None else port, key)


def load_dask() -> ModuleType:
    """dask.distributed, quiet and with our settings.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        import dask
        import distributed
    except ImportError as error:
        raise ConfigError(
            "distilling on many machines needs dask.distributed, which is not installed: "
            f"`uv sync --extra workers` in the project, else `pip install 'lem-train[workers]'` "
            f"({error})"
        ) from error
    dask.config.set(_SETTINGS)
    for name in ("distributed", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Set when dask was imported, some loggers have a level of their own.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("distributed."):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed


def security(at: Place) -> Any:
    """dask's: both ends show the certificate, and both know no other; None without a key."""
    if at.key is None:
        return None
    file = str(at.key)
    return load_dask().Security(
        tls_ca_file=file,
        tls_scheduler_cert=file,
        tls_worker_cert=file,
        tls_client_cert=file,
        require_encryption=True,
    )


def software() -> Mapping[str, str]:
    """What an answer's bytes depend on, besides teacher, settings and machine."""
    return {name: version(name) for name in ("lem-train", "mlx", "mlx-lm")}


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_key(key: Path) -> None:
    try:
        context = ssl.create_default_context(cafile=str(key))
        context.load_cert_chain(key)
    except OSError as error:  # ssl's errors are some
        raise ConfigError(
            f"--tls {key}: expected a PEM file with certificate and private key ({error}); make "
            f"one: {_MAKE_KEY}"
        ) from error
