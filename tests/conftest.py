"""The hypothesis profile of all tests, and the check that no test leaves anything behind.

Every run tries the same inputs, so a new failure is due to a change. To try new inputs, set ``HYPOTHESIS_PROFILE`` to
``random`` or ``long``, and ``SWEEP_SEED`` to ``random``.
"""

import gc
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import prepared_homes
from trio_codex.testing import _home, assert_nothing_left

settings.register_profile("dev", deadline=None, derandomize=True, max_examples=60)
settings.register_profile("random", deadline=None, print_blob=True)
settings.register_profile(
    "long", deadline=None, max_examples=5000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "dev")

# The seed of the cancellation samples. Workers inherit a random seed, and the summary shows it.
os.environ.setdefault("SWEEP_SEED", "0")
if os.environ["SWEEP_SEED"] == "random":
    os.environ["SWEEP_SEED"] = str(random.randrange(10**6))

# Tests start hundreds of interpreters that import the package. Without bytecode, each would compile it again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# This must happen before a test module imports the function.
_home.write_offline_home = prepared_homes.prepared

MOST_WORKERS = 4
"""Some tests depend on timing, which more workers would disturb."""


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        os.environ[prepared_homes.VARIABLE] = tempfile.mkdtemp(prefix="prepared-home-")
    prepared_homes.directory = Path(os.environ[prepared_homes.VARIABLE])


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(prepared_homes.directory)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Distribute a full run over the processors.

    Selected tests run in this process, where a debugger works and no workers have to start; so do the long
    benchmarks. With ``-n 0``, a full run does, too.
    """
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not everything or config.option.markexpr != "not long" or processors == 1:
        return 0
    # One worker more than there are processors, because tests wait for child processes.
    return min(processors + 1, MOST_WORKERS)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Exempt collected tests from garbage collection: they live for the whole run and slow down each collection.

    Later, the caches of Hypothesis and the converters do the same, so full collections are a tenth as frequent.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        young, middle, old = gc.get_threshold()
        gc.set_threshold(young, middle, 10 * old)
        gc.enable()


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # SIGINT is ignored in background jobs of a shell, but tests send it to this process and its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Fail a test that leaves a child process, a thread or a file descriptor behind."""
    with assert_nothing_left():
        yield


# -- a summary at the end of the run ----------------------------------------------------------


def pytest_terminal_summary(terminalreporter):
    """Summarize the fault matrix, cancelled checkpoints and fuzzed inputs that tests recorded as properties."""
    tried = [
        (dict(report.user_properties), report)
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        if report.when == "call"
    ]
    for line in (*_faults(tried), *_sweeps(tried), *_fuzzed(tried)):
        terminalreporter.write_line(line)


def _faults(tried):
    cells = [(found["fault"], found["phase"], report.failed) for found, report in tried if "fault" in found]
    if cells:
        faults, phases, failed = zip(*cells, strict=True)
        yield (
            f"fault matrix: {len(cells)} cells tried, {len({*faults})} faults in {len({*phases})} phases,"
            f" {sum(failed)} failed"
        )


def _sweeps(tried):
    whole, sampled = [], []
    for found, _ in tried:
        if "checkpoints" in found:
            (whole if found["seed"] is None else sampled).append(found)
    if whole:
        total = sum(found["checkpoints"] for found in whole)
        yield f"cancellation: {len(whole)} scenarios, each cancelled at all of its checkpoints, {total} in total"
    if sampled:
        cut, total = (sum(found[name] for found in sampled) for name in ("tried", "checkpoints"))
        seeds = ", ".join(f"SWEEP_SEED={seed}" for seed in {found["seed"] for found in sampled})
        yield f"cancellation: {len(sampled)} more at a sample, {cut} of {total} checkpoints, {seeds}"


def _fuzzed(tried):
    for found, _ in tried:
        if "fuzzed" in found:
            yield f"fuzzing: {found['fuzzed']} inputs, coverage {found['coverage']}"


@pytest.fixture(scope="session")
def needs_git():
    """Skip a test that needs git if git is not installed."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Return the paths of a certificate for localhost and 127.0.0.1 and of its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    directory = tmp_path_factory.mktemp("certificate")
    paths = str(directory / "certificate.pem"), str(directory / "key.pem")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", paths[1])
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    command = ["openssl", "req", "-x509", "-days", "2", *key, *names, "-out", paths[0]]
    subprocess.run(command, check=True, capture_output=True)
    return paths


@pytest.fixture
def dated_certificate(certificate, tmp_path):
    """Return a function that issues a certificate for a period, and returns the SSL contexts of its server and clients."""
    directory = tmp_path / "dated"
    directory.mkdir()
    (directory / "index").touch()
    (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    (directory / "settings").write_text(
        f"[ca]\ndefault_ca=it\n[it]\ndatabase={directory}/index\nrand_serial=yes\nnew_certs_dir={directory}\n"
        "default_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n"
    )

    def issue(begins, ends):
        request, path, key = directory / "request.pem", directory / "certificate.pem", certificate[1]
        for command in (
            ["req", "-new", "-key", key, "-subj", "/CN=localhost", "-out", request],
            ["ca", "-batch", "-selfsign", "-config", directory / "settings", "-keyfile", key, "-in", request,
             "-extfile", directory / "names", "-startdate", begins, "-enddate", ends, "-notext", "-out", path],
        ):  # fmt: skip
            subprocess.run(["openssl", *command], check=True, capture_output=True)
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(path, key)
        return server_context, ssl.create_default_context(cafile=path)

    return issue


@pytest.fixture
def server_context(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def trusting(certificate):
    """Return an SSL context that trusts the certificate, for clients."""
    return ssl.create_default_context(cafile=certificate[0])
