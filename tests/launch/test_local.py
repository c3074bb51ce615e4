"""One machine."""


def test_passes_the_flags_on_and_the_exit_code_back(launch, refused):
    result = launch("local.sh", "--", "--mode=pretrain", FAKE_FATES="7")
    assert result.returncode == 7
    assert result.stdout == "step 1\n"
    line = refused("local.sh", CLOZE_PYTHON="/nowhere/python")
    assert "there is no /nowhere/python" in line and "make run" in line


def test_takes_the_strategy_from_flag_or_variable(launch):
    for words, variable, expected in (
        ([], "", "--strategy=mirrored"),
        (["--strategy=tpu"], "one_device", "--strategy=tpu"),
        ([], "one_device", "--strategy=one_device"),
        (["--strategy", "tpu", "--", "--a=1"], "", "--strategy=tpu --a=1"),
    ):
        shown = launch("local.sh", "--dry_run", *words, CLOZE_STRATEGY=variable)
        assert shown.stdout.split("trainer.main ")[1].strip() == expected
