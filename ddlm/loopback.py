"""Servers on this machine are asked directly, whatever proxy the web is reached by."""

import os
import shlex
import sys
from importlib.util import find_spec

from ddlm.config import UserError

HERE = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
EXEMPT = ("no_proxy", "NO_PROXY")
"""Clients read either spelling."""


def spare_loopback() -> None:
    """Where a proxy is set, exempt this machine from it, for this process and those it starts.

    Before any client is made: some read the environment only then.
    """
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in PROXIES):
        return
    named = ",".join(value for name in EXEMPT if (value := os.environ.get(name)))
    hosts = [host for part in named.split(",") if (host := part.strip())]
    exempt = ",".join(dict.fromkeys([*hosts, *HERE]))
    os.environ.update(dict.fromkeys(EXEMPT, exempt))


def require_no_unusable_proxy() -> None:
    """Raises: UserError for a SOCKS proxy without the package that speaks it: httpx then makes no client at all, not
    even one that would ask this machine directly."""
    for name in (spelling for proxy in PROXIES for spelling in (proxy, proxy.upper())):
        if os.environ.get(name, "").lower().startswith("socks") and find_spec("socksio") is None:
            remedy = f"{shlex.quote(sys.executable)} -m pip install socksio, or unset {name}"
            raise UserError(f"{name} names a SOCKS proxy, and the package socksio is not installed; run {remedy}")
