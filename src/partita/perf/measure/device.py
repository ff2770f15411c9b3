"""The device that is measured, and the names under which its figures stand in a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from partita.errors import InputError
from partita.mig.catalogue import gpu_model

CPU = "cpu"
"""In the column `gpu`: no GPU of the catalogue has this name, so no plan takes the row for a GPU's."""


@dataclass(frozen=True, slots=True)
class Device:
    """What is measured.

    Attributes:
        gpu: for the table: the catalogue's name, or `cpu`.
        profile: for the table: the MIG profile, that of the whole GPU's size without MIG, or `host`.
        uuid: what CUDA_VISIBLE_DEVICES is set to; None on a CPU.
        title: the device in words.
        stand_in: whether `gpu` and `profile` were given by the user and are not what was measured.
    """

    kind: Literal["cpu", "gpu", "mig"]
    gpu: str
    profile: str
    title: str
    uuid: str | None = None
    stand_in: bool = False

    @property
    def note(self) -> str:
        """What a row of a table must say of where it was measured."""
        if self.stand_in:
            return f"measured on {self.title} as a stand-in for {self.gpu} {self.profile}, NOT on that GPU"
        return f"measured on {self.title}"

    def posing_as(self, text: str) -> Device:
        """Return the device under the names of another, `a100-80gb/3g.40gb`, as a stand-in that says so.

        Raises:
            InputError: no such GPU or profile.
        """
        name, slash, profile = text.partition("/")
        if not slash:
            raise InputError(
                f"{text!r} names no GPU and profile", where="--as", hint="write a100-80gb/3g.40gb"
            )
        try:
            gpu_model(name).profile(profile)
        except InputError as error:
            raise InputError(error.what, where="--as", hint=error.hint) from None
        return Device(self.kind, name, profile, self.title, self.uuid, stand_in=True)


def cpu_device(title: str, cores: int) -> Device:
    """Return this host's CPU, under names that no plan takes for a GPU."""
    return Device("cpu", CPU, "host", f"{title}, {cores} {'core' if cores == 1 else 'cores'}")
