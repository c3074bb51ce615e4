"""What all scripts have in common."""

import pathlib
import re
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


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_flag_and_a_dry_run_needs_nothing(
    script, launch, calls
):
    result = launch(script, "--help")
    assert result.returncode == 0
    known = launch(script, "--nonsense=1").stderr
    flags = known.split("choose from ")[1].split(";")[0].split()
    for flag in flags:
        if flag not in ("--help", "--dry_run"):
            assert flag in result.stdout
    result = launch(script, "--dry_run", CLOZE_PYTHON="missing")
    assert result.returncode == 0, result.stderr
    assert result.stdout and not result.stderr
    assert not calls.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nonsense=1"], "--nonsense=1 is not known"),
        (["word"], "word is not known; .* trainer.main stand after --"),
        (["---"], "--- is not known"),
        (["--strategy="], "--strategy has no value"),
        (["--strategy", "--x"], "--strategy has no value"),
    ],
)
def test_a_bad_flag_is_refused(words, says, refused):
    assert re.search(says, refused("local.sh", "--dry_run", *words))


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
