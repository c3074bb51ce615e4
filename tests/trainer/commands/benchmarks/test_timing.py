"""Tests of trainer/commands/benchmarks/timing.py."""

from trainer.commands.benchmarks import timing


def test_calls_take_turns_and_the_first_round_is_thrown_away(monkeypatch):
    now, order = [0.0], []
    durations = {"a": iter([100, 1, 2]), "b": iter([50, 4, 8])}

    def create(name):
        def call():
            order.append(name)
            now[0] += next(durations[name])

        return call

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    calls = {name: create(name) for name in durations}
    seconds = timing.in_turns(calls, num_rounds=2)
    assert seconds == {"a": [1, 2], "b": [4, 8]}
    assert "".join(order) == "ababab"


def test_describes_one_of_several_parts():
    # Half of the rounds lie between 0.2 and 0.4 s.
    assert timing.describe([0.1, 0.2, 0.25, 0.4, 0.9], parts=10) == {
        "milliseconds_median": 25.0,
        "milliseconds_minimum": 10.0,
        "spread": 0.8,
    }


def test_ratios_are_those_of_one_round():
    compared = timing.compare([1.0, 2.0, 4.0], [3.0, 2.0, 8.0])
    assert compared["ratios"] == [3.0, 1.0, 2.0]
    assert compared["ratio_median"] == 2.0
    assert compared["reference_milliseconds_median"] == 3000.0
