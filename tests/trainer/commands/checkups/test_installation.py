"""This environment is as locked; planted faults: test_doctor.py."""

import pytest

from trainer.commands.checkups import check, installation

LOCK = """\
# A comment.
one==1.0 \\
    --hash=sha256:00
    # via two
two==2.0 ; python_full_version < '3.0' \\
two==2.1 ; python_full_version >= '3.0'
cuda==9.0
"""


@pytest.fixture(name="root")
def _root(tmp_path, monkeypatch):
    """A checkout with a lock and nothing else."""
    for name in ("requirements.txt", "requirements-gpu.txt"):
        (tmp_path / name).write_text(LOCK)
    monkeypatch.setattr(installation, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture(name="install")
def _install(monkeypatch):
    """A function: versions by name -> nothing else is installed."""

    def create(**versions):
        monkeypatch.setattr(
            installation, "_installed", lambda name: versions.get(name, "")
        )

    return create


def test_the_lock_with_cuda_repeats_the_other():
    small, large = (
        {*installation._lines(installation.ROOT / name)}
        for name in ("requirements.txt", "requirements-gpu.txt")
    )
    assert small < large


@pytest.mark.usefixtures("root")
def test_markers_are_heeded_and_what_is_not_installed_is_not_missed(install):
    install(one="1.0", two="2.1")
    assert installation.packages(None) == (
        "2 packages, all as in requirements.txt"
    )
    install(one="1.0", two="2.1", cuda="9.0", **{"nvidia-cudnn-cu12": "9.9"})
    assert installation.packages(None) == (
        "3 packages, all as in requirements-gpu.txt"
    )
    install(one="1.1", two="2.0")
    with pytest.raises(check.Imperfect, match=r"one is 1.1, .*two is 2.0, not"):
        installation.packages(None)


def test_no_lock_is_no_fault_of_the_machine(root, install):
    install()
    (root / "requirements.txt").unlink()
    with pytest.raises(check.Imperfect, match="is not there"):
        installation.packages(None)
    assert installation.python(None)


def test_a_tpu_vm_has_a_lock_of_its_own(root, install):
    (root / "pyproject.toml").write_text(
        '[project]\ndependencies = ["tensorflow>=2.19.1,<2.22"]\n'
    )
    lock = root / "launch" / "tpu_vm" / "requirements.txt"
    lock.parent.mkdir(parents=True)
    lock.write_text("tensorflow-tpu==2.19.1\n")
    install(**{"tensorflow-tpu": "2.19.1", "one": "7.0"})
    assert installation.packages(None) == (
        "1 packages, all as in launch/tpu_vm/requirements.txt"
    )
