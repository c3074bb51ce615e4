"""One machine."""


def test_passes_the_flags_on_and_the_exit_code_back(launch):
    result = launch("local.sh", "--", "--mode=pretrain", FAKE_FATES="7")
    assert result.returncode == 7
    assert result.stdout == "step 1\n"


def test_takes_the_strategy_from_flag_or_variable(launch):
    def shown(*words, **settings):
        printed = launch("local.sh", "--dry_run", *words, **settings).stdout
        return printed.split("-m trainer.main ")[1].strip()

    assert shown() == "--strategy=mirrored"
    assert shown("--strategy=tpu") == "--strategy=tpu"
    assert shown(CLOZE_STRATEGY="one_device") == "--strategy=one_device"
    assert shown("--strategy", "tpu", "--", "--a=1") == "--strategy=tpu --a=1"


def test_no_interpreter(refused):
    line = refused("local.sh", CLOZE_PYTHON="/nowhere/python")
    assert "there is no /nowhere/python" in line
    assert "make run" in line
