"""Finds the real servers that tests run against; installs them where that is ours to do.

Must never start a service of the machine: only private copies are used.
"""

import os
import shutil
import subprocess
from pathlib import Path

# program: Debian package that brings it.
_PACKAGES = {"postgres": "postgresql", "redis-server": "redis-server", "nginx": "nginx-light"}
_POLICY = Path("/usr/sbin/policy-rc.d")


class MissingProgramError(Exception):
    """A real server is not installed; the message says what to run."""


def find(name: str) -> Path | None:
    """Look a program up on PATH and where Debian keeps PostgreSQL; newest version first."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found and name not in ("postgres", "initdb"):
        return Path(found)
    debian = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"),
        key=lambda path: float(path.parts[4]),
    )
    return debian[-1] if debian else Path(found) if found else None


def program(name: str) -> Path:
    """Return where a program is.

    Raises:
        MissingProgramError: it is not installed.
    """
    found = find(name)
    if found is None:
        raise MissingProgramError(f"{name} is not installed; run: {_install_line()}")
    return found


def install_missing() -> None:
    """Make sure that every server is there, as root with Debian's packages.

    Raises:
        MissingProgramError: one is missing and we cannot install it; says the line to run.
    """
    packages = [package for name, package in _PACKAGES.items() if find(name) is None]
    if not packages:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MissingProgramError(f"{', '.join(packages)} missing; run: {_install_line()}")
    print(f"Installing {', '.join(packages)} with apt-get.", flush=True)
    # Debian starts what it installs unless this script says no (invoke-rc.d, exit code 101).
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(
                ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", *words],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                last = (done.stderr or done.stdout).strip().splitlines()[-3:]
                raise MissingProgramError(
                    f"apt-get {words[0]} failed: {' '.join(last)}; run: {_install_line()}"
                )
    finally:
        if ours:
            _POLICY.unlink()
    for name in _PACKAGES:
        program(name)


def _install_line() -> str:
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get install -y --no-install-recommends {' '.join(_PACKAGES.values())}"
