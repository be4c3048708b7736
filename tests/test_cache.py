"""The folder of compiled kernels: many processes at once, one that is killed, a full disk, no right to write."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from hybridsolve import _cpu, cli
from hybridsolve.compiler import cache

pytestmark = [pytest.mark.compile, pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")]
# The least that stands for a model: it is compiled in a moment.
MODEL = """\
// a store
#include "core/model.h"
namespace hs { namespace HS_ISA {
struct Least : Defaults {
  static constexpr int F = 1, P = 1, S = 1, Q = 1, OUTFLOW = 0;
  static constexpr const char *forcing_names = "f", *parameter_names = "p", *state_names = "s", *flux_names = "q";
  template <class V> struct Kept { V x; };
  template <bool KNOWN = false, class V> static HS_FN void step(const Given<V>& in, V* s, V* q, Kept<V>&) {
    q[0] = s[0] * in.p[0];
    s[0] = s[0] + in.f[0] - q[0];
  }
  template <class V>
  static HS_FN void step_adj(const Given<V>&, const V*, Kept<V>, const V*, V*, const Cotangents<V>&) {}
};
} }
#define HS_MODELS(KERNEL) KERNEL(least, Least)
"""
PROGRAM = "import sys; from hybridsolve.compiler import cache; print(cache.library(sys.stdin.read(), 'ISA', 1, 1))"
# Says who it is as g++ does, writes a line for every library, and waits before that where it is told to.
COMPILER = """\
#!/bin/sh
[ "$1" = --version ] && exec g++ --version
echo compiled >> {folder}/log
while [ -e {folder}/hold ]; do sleep 0.05; done
exec g++ "$@"
"""


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A folder with a compiler that writes a log, and with the cache; what this process knows is forgotten."""
    script = tmp_path / "compiler"
    script.write_text(COMPILER.format(folder=tmp_path))
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("HYBRIDSOLVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cache.compiler.cache_clear()
    yield tmp_path
    cache.compiler.cache_clear()


def start(**options) -> subprocess.Popen:
    command, pipe = [sys.executable, "-c", PROGRAM.replace("ISA", _cpu.isa())], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, **options)
    process.stdin.write(MODEL)
    process.stdin.close()
    process.stdin = None
    return process


def compiled(folder) -> int:
    log = folder / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def wait_until(so, seconds=60):
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


@pytest.mark.parametrize("n", [6, pytest.param(50, marks=pytest.mark.nightly)])
def test_many_processes_on_one_folder_where_one_is_killed(compiler, n):
    (compiler / "hold").touch()
    killed = start(start_new_session=True)  # with the compiler that it starts
    wait_until(lambda: compiled(compiler) == 1)
    others = [start() for _ in range(n)]
    assert len(list((compiler / "cache").glob("*-*"))) == 1  # where it was at work
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    (compiler / "hold").unlink()
    answers = [process.communicate() for process in others]
    assert {process.returncode for process in others} == {0}, answers
    assert len(set(answers)) == 1 and not answers[0][1]
    assert compiled(compiler) == 2  # that of the killed process, and one for all others
    (library,) = (compiler / "cache").glob("*.so")
    assert str(library) == answers[0][0].strip()
    assert sorted(x.suffix for x in (compiler / "cache").iterdir()) == [".lock", ".sha256", ".so"]


def test_a_folder_that_is_read_alone_serves_for_what_is_in_it(compiler, monkeypatch):
    there = cache.library(MODEL, _cpu.isa(), 1, 1)
    access = os.access  # the superuser may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    assert cache.library(MODEL, _cpu.isa(), 1, 1) == there
    with pytest.raises(RuntimeError, match=r"cannot be written to \(no right to write\): set HYBRIDSOLVE_CACHE"):
        cache.library(MODEL, _cpu.isa(), 1, 2)


def test_a_full_disk_is_said_and_leaves_nothing(compiler):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000))

    process = start(preexec_fn=limited)
    said = process.communicate()[1].splitlines()[-1]
    assert process.returncode == 1
    assert said.startswith(f"RuntimeError: the compiled model cannot be kept in {compiler / 'cache'} (")
    assert said.endswith("): free space there, or set HYBRIDSOLVE_CACHE to another folder.")
    assert [x.suffix for x in (compiler / "cache").iterdir()] == [".lock"]
    assert cache.library(MODEL, _cpu.isa(), 1, 1).exists()


def test_what_is_being_made_is_not_cleared(compiler, capsys):
    cache.library(MODEL, _cpu.isa(), 1, 2)
    (compiler / "hold").touch()
    process = start()
    wait_until(lambda: compiled(compiler) == 2)
    assert cli.main(["cache", "--clear"]) == 0 and "removed 1 libraries" in capsys.readouterr().out
    (compiler / "hold").unlink()
    assert process.communicate()[1] == "" and process.returncode == 0
    assert cli.main(["cache", "--clear"]) == 0 and not list((compiler / "cache").iterdir())
