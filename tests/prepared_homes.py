"""Offline homes in which a server has run before: ``prepared_homes.py DIRECTORY``.

Creating six databases, with dozens of migrations, takes a server longer than the rest of its start. Here one server
does it for the homes of all tests. The programs that tests start still write new homes.
"""

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import attrs
import trio

from trio_codex import open_codex
from trio_codex.testing import MockModel, Response, Text, _home, offline_home

VARIABLE = "PREPARED_HOME"
"""Names the directory of the prepared home for workers."""

directory = None
"""The directory of the prepared home, set while tests run."""

SECONDS = 60

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBdjCCARugAwIBAgIUZWuqFNXsoWRKh9s1AtH3HcXQoG8wCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEbm9uZTAgFw0yNjEyMDEwNDA0NTVaGA8yMTI2MTEwNzA0MDQ1
NVowDzENMAsGA1UEAwwEbm9uZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABEUo
GhDWc3td0Cigck5vagtoqBwrQY1ExsRRc0X4N/A2aptn68DlJmvjjGj0tnyewKH2
ORevDFChVPtUVAQbEiqjUzBRMB0GA1UdDgQWBBTIZsGxdAxvSJ9nuLwfQHAMYagw
pzAfBgNVHSMEGDAWgBTIZsGxdAxvSJ9nuLwfQHAMYagwpzAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0kAMEYCIQDy3Me4GMrwvCKVWQrCmB/kec4vVQZc+Zpa
DQf9ZpQdwAIhAJ6oMrSZZVMEGlOXwaosbZOgt9TO4DOHu9NRmCG/p4wA
-----END CERTIFICATE-----
"""
"""The only authority that the servers of tests trust. They connect only to the mock model, but parse all authorities in
each turn: of the system, that would be 140."""

write_new_home = _home.write_offline_home
"""The original ``write_offline_home()``, for tests of a first start."""


def prepared(*args, **options):
    """Write an offline home that contains what a server creates at its first start."""
    home = write_new_home(*args, **options)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "complete").exists():
            subprocess.run([sys.executable, __file__, directory], check=True, timeout=SECONDS)
    shutil.copytree(directory / "codex_home", home.codex_home, symlinks=True, dirs_exist_ok=True)
    path = f"{directory}{os.pathsep}{home.env['PATH']}"
    return attrs.evolve(home, env={**home.env, "PATH": path, "SSL_CERT_FILE": f"{directory}/certificate.pem"})


async def prepare(directory):
    """Run a thread on a server in a new home, delete it, and keep the files that are useful to other homes."""
    kept = directory / "codex_home"
    skills = kept / "skills" / ".system"
    skills.parent.mkdir(parents=True)
    async with MockModel() as model:
        model.default = Response(Text("done"))
        with offline_home(model) as home:
            async with open_codex(home.config()) as codex:
                thread = await codex.thread_start()
                await thread.run("hi")
                await codex.thread_delete(thread.id)
            for database in home.codex_home.glob("*.sqlite"):
                with closing(sqlite3.connect(database)) as connection:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                shutil.copy(database, kept)
            shutil.copytree(home.codex_home / "skills" / ".system", directory / "skills")
    # The server replaces only the skills of other versions.
    skills.symlink_to(directory / "skills")
    # The server runs lsb_release twice at each start, which takes dozens of processes. If that fails, it reads
    # /etc/os-release instead.
    (directory / "lsb_release").symlink_to(shutil.which("false"))
    (directory / "certificate.pem").write_text(CERTIFICATE)
    (directory / "complete").touch()


if __name__ == "__main__":
    trio.run(prepare, Path(sys.argv[1]))
