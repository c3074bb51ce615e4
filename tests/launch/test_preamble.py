"""What all scripts have in common."""

import pathlib
import shlex
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
SOURCED = ("preamble.sh", "tpu_vm/gcloud.sh")
SCRIPTS = [
    str(path.relative_to(LAUNCH))
    for path in sorted(LAUNCH.rglob("*.s*"))
    if path.suffix in (".sh", ".sbatch")
    and str(path.relative_to(LAUNCH)) not in SOURCED
]
each_script = pytest.mark.parametrize("script", SCRIPTS)


@each_script
def test_help_names_every_flag(script, launch, calls):
    result = launch(script, "--help")
    assert result.returncode == 0
    known = launch(script, "--nonsense=1").stderr
    flags = known.split("choose from ")[1].split(";")[0].split()
    for flag in flags:
        if flag not in ("--help", "--dry_run"):
            assert flag in result.stdout
    assert not calls.exists()


@each_script
def test_dry_run_needs_nothing_and_does_nothing(script, launch, calls):
    result = launch(script, "--dry_run", CLOZE_PYTHON="missing")
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    assert result.stdout
    assert not calls.exists()


@pytest.mark.parametrize("word", ["--nonsense=1", "--nonsense", "word", "---"])
def test_an_unknown_flag_is_refused(word, refused, calls):
    line = refused("local.sh", "--dry_run", word)
    assert f"{word} is not known" in line
    assert "flags of trainer.main stand after --" in line
    assert not calls.exists()


@pytest.mark.parametrize("words", [("--strategy=",), ("--strategy", "--x")])
def test_a_flag_without_a_value_is_refused(words, refused):
    assert "--strategy has no value" in refused("local.sh", *words)


def test_a_printed_command_reads_as_the_same_words(launch):
    words = ["--config.a=it's", "two words", "", '"$(id)"', "a\nb", "*"]
    printed = launch("local.sh", "--dry_run", "--", *words).stdout
    assert shlex.split(printed)[-len(words) :] == words


# Beside the interpreter, where the lock file has it.
SHELLCHECK = pathlib.Path(sys.executable).with_name("shellcheck")


@pytest.mark.skipif(
    not SHELLCHECK.exists(),
    reason="shellcheck is NOT INSTALLED: the scripts are not linted",
)
def test_shellcheck_finds_nothing():
    paths = [LAUNCH / name for name in (*SCRIPTS, *SOURCED)]
    paths.append(LAUNCH.parent / "proofs" / "tpu" / "prove.sh")
    result = subprocess.run(
        [SHELLCHECK, "--external-sources", "--source-path=SCRIPTDIR", *paths],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout
