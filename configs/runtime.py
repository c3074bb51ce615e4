"""Where a command runs, and how it ends early."""

import dataclasses
import signal

STRATEGIES = ("mirrored", "one_device", "multi_worker", "tpu")


@dataclasses.dataclass(frozen=True)
class Runtime:
    """The layout of a run: speed depends on it, results do not."""

    strategy: str = "mirrored"  # One of STRATEGIES.
    num_virtual_devices: int = 0  # Split the CPU or GPU; 0 = leave it whole.

    def __post_init__(self) -> None:
        if self.num_virtual_devices and self.strategy == "tpu":
            raise ValueError(
                f"--num_virtual_devices={self.num_virtual_devices} does not go"
                " with --strategy=tpu, whose cores cannot be split; leave it"
                " at 0."
            )


class Stopped(Exception):
    """A signal ended the command early; everything worth keeping is saved."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signal_number).name}"

    @property
    def exit_code(self) -> int:
        """What a shell reports for the signal, such as 130 for SIGINT."""
        return 128 + self.signal_number
