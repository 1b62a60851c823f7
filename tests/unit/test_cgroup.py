"""Control groups: what is claimed, what is written into it, and what is left alone. On folders that look like them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.runtime.inside import cgroup
from broker.runtime.inside.cgroup import Leaves


@pytest.fixture
def system(tmp_path):
    return System(tmp_path)


class System:
    """A /proc/self and a tree of control groups; the kernel's files are there only where they are made."""

    def __init__(self, root: Path) -> None:
        self.proc, self.mount = root / "proc", root / "cgroup"
        self.proc.mkdir()
        self.mount.mkdir()
        (self.proc / "mounts").write_text(f"tmpfs /tmp tmpfs rw 0 0\ncgroup2 {self.mount} cgroup2 rw 0 0\n")

    def enter(self, path: str) -> Path:
        (self.proc / "cgroup").write_text(f"9:memory:/other\n0::{path}\n")
        group = self.mount / path.lstrip("/")
        group.mkdir(parents=True, exist_ok=True)
        return group

    def home(self, *controllers: str) -> Path:
        home = cgroup.claim(self.proc)
        assert home
        (home / "cgroup.subtree_control").write_text(" ".join(controllers))
        return home


def test_environments_get_theirs_below_the_one_that_the_worker_is_in(system):
    group = system.enter("/user.slice/me")
    home = cgroup.claim(system.proc)
    assert home
    assert home.parent == group
    assert home.name.startswith(f"broker-{os.getpid()}-")
    assert (group / "cgroup.subtree_control").read_text() == "+pids"  # written last, after +memory


def test_a_leaf_called_broker_is_our_own_and_the_one_above_is_divided(system):
    group = system.enter("/system.slice/broker.service/broker")
    home = cgroup.claim(system.proc)
    assert home
    assert home.parent == group.parent


@pytest.mark.parametrize("path", ["/../outside", None])
def test_what_cannot_be_reached_is_not_claimed(system, path):
    if path:
        (system.proc / "cgroup").write_text(f"0::{path}\n")
    assert cgroup.claim(system.proc) is None


def test_where_there_is_no_cgroup2_none_is_claimed(system):
    system.enter("/a")
    (system.proc / "mounts").write_text("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n")
    assert cgroup.claim(system.proc) is None
    assert cgroup.claim(system.proc / "not there") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_may_not_be_written_is_not_claimed(system):
    system.enter("/a").chmod(0o500)
    assert cgroup.claim(system.proc) is None


def test_the_limits_are_written_where_their_controllers_were_handed_down(system):
    system.enter("/a")
    leaf = Leaves(system.home("memory", "pids")).bind(memory=64 << 20, processes=50)
    assert leaf
    written = {path.name: path.read_text() for path in leaf.iterdir()}
    assert written == {
        "cgroup.procs": "0",
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "51",
    }


def test_without_controllers_there_is_the_group_alone(system):
    system.enter("/a")
    leaf = Leaves(system.home()).bind(memory=64 << 20, processes=50)
    assert leaf
    assert [path.name for path in leaf.iterdir()] == ["cgroup.procs"]
    assert Leaves(None).bind(memory=1, processes=1) is None


def test_each_environment_has_a_group_of_its_own(system):
    system.enter("/a")
    leaves = Leaves(system.home())
    first = leaves.bind(memory=1, processes=1)
    leaves.move_on()
    second = leaves.bind(memory=1, processes=1)
    assert first
    assert second
    assert first != second
    assert (second / "cgroup.procs").read_text() == "0"


def test_where_no_process_may_enter_it_goes_on_without(system):
    system.enter("/a")
    home = system.home()
    (home / f"{os.getpid()}-2").write_text("in the way")
    leaves = Leaves(home)
    assert leaves.bind(memory=1, processes=1)
    leaves.move_on()
    assert leaves.bind(memory=1, processes=1) is None
    leaves.move_on()
    assert leaves.bind(memory=1, processes=1) is None


@pytest.mark.parametrize(
    ("events", "expected"), [("low 0\noom 1\noom_kill 2\n", True), ("oom 1\noom_kill 0\n", False), ("", False)]
)
def test_that_memory_ran_out_is_what_the_kernel_says(tmp_path, events, expected):
    (tmp_path / "memory.events").write_text(events)
    assert cgroup.ran_out_of_memory(tmp_path) is expected
    assert not cgroup.ran_out_of_memory(tmp_path / "not there")


def test_what_dead_workers_have_left_is_removed_and_nothing_else(system):
    group = system.enter("/a")
    for name in ("broker-999999999-abcdef/1-1", "broker-1-abcdef/1-1", "broker-999999999/x", "broker"):
        (group / name).mkdir(parents=True)
    cgroup.claim(system.proc)
    kept = sorted(path.name for path in group.iterdir() if path.is_dir() and str(os.getpid()) not in path.name)
    # A kernel's folder can be removed with its files in it; this one keeps the file into which `kill` has written.
    assert (group / "broker-999999999-abcdef/1-1/cgroup.kill").read_text() == "1"
    assert kept == ["broker", "broker-1-abcdef", "broker-999999999", "broker-999999999-abcdef"]
