"""Read-only checks against a real GPU, where one is at hand. They change no setting of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pynvml
import pytest

from partita.drive.nvml import instances
from partita.drive.nvml.devices import NvmlDevice, discover, list_profiles, mig_mode
from partita.mig.layout import fault

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def devices() -> Iterator[tuple[NvmlDevice, ...]]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        pytest.skip(f"no real GPU at hand: {error}")
    found, unusable = discover("node-0")
    if not found:
        pytest.skip(f"no GPU here can be cut: {[(each.name, each.why) for each in unusable]}")
    yield found
    pynvml.nvmlShutdown()


def test_a_real_gpu_offers_every_profile_of_the_catalogue_with_at_least_its_memory(
    devices: tuple[NvmlDevice, ...],
) -> None:
    for device in devices:
        known = device.known
        if known is None:
            pytest.skip(
                f"{device.name} is not in the catalogue; what NVML tells is in the report of `make device`"
            )
        offered = {each.number: each for each in list_profiles(device.handle())}
        # Old drivers lack the variants and the double-memory 1g; the plain sizes are always there.
        plain = {p.nvml_profile for p in known.profiles if p.plain}
        double = {p.nvml_profile for p in known.profiles if (p.compute, p.memory) == (1, 2)}
        assert plain - double <= set(offered), device.name
        for profile in known.profiles:
            if profile.nvml_profile in offered:
                told = offered[profile.nvml_profile]
                assert (told.id, told.count) == (profile.gi_profile_id, profile.max_instances), told
                assert told.memory_mib >= (profile.memory_mib or 0), told


def test_a_real_gpu_has_the_placements_of_the_catalogue(devices: tuple[NvmlDevice, ...]) -> None:
    for device in devices:
        known = {p.nvml_profile: p for p in device.known.profiles} if device.known else {}
        told = [
            each
            for each in list_profiles(device.handle())
            if each.starts is not None and each.number in known
        ]
        if not told:
            pytest.skip("MIG mode is off, and this driver tells no placements then")
        for each in told:
            profile = known[each.number]
            assert (each.starts, each.size) == (profile.starts, profile.memory), each


def test_what_is_cut_on_a_real_gpu_is_legal_by_our_rules(devices: tuple[NvmlDevice, ...]) -> None:
    for device in devices:
        handle = device.handle()
        if mig_mode(handle)[0]:
            try:
                found = instances.list_instances(handle, device.offers)
            except pynvml.NVMLError_NoPermission:
                pytest.skip("MIG mode is on, and only root may see what is cut")
            assert fault(device.model, [device.placed(each)[1] for each in found]) is None
            assert len({each.identity for each in found}) == len(found)
