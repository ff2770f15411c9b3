"""Read-only checks against a real GPU, where one is at hand. They change no setting of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pynvml
import pytest

from partita.drive.nvml import cuts
from partita.drive.nvml.devices import Device, discover, mig_mode
from partita.mig.layout import fault

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def devices() -> Iterator[tuple[Device, ...]]:
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
    devices: tuple[Device, ...],
) -> None:
    for device in devices:
        offered = {offer.profile.name: offer for offer in device.offers}
        # Old drivers lack the variants and the double-memory 1g; the plain sizes are always there.
        plain = {p.name for p in device.model.profiles if not any(mark in p.name for mark in "+-")}
        double = {p.name for p in device.model.profiles if (p.compute, p.memory) == (1, 2)}
        assert plain - double <= set(offered), device.model.name
        for offer in device.offers:
            expected = offer.profile.memory_mib
            assert offer.id == offer.profile.gi_profile_id, offer
            assert offer.count == offer.profile.max_instances, offer
            if expected is not None:
                assert expected <= offer.memory_mib <= 1.05 * expected, offer


def test_a_real_gpu_has_the_placements_of_the_catalogue(devices: tuple[Device, ...]) -> None:
    told = [offer for device in devices for offer in device.offers if offer.starts is not None]
    if not told:
        pytest.skip("MIG mode is off, and this driver tells no placements then")
    for offer in told:
        assert offer.starts == offer.profile.starts, offer
        assert offer.size == offer.profile.memory, offer


def test_what_is_cut_on_a_real_gpu_is_legal_by_our_rules(devices: tuple[Device, ...]) -> None:
    for device in devices:
        handle = device.handle()
        if mig_mode(handle)[0]:
            try:
                found = cuts.instances(handle, device.offers)
            except pynvml.NVMLError_NoPermission:
                pytest.skip("MIG mode is on, and only root may see what is cut")
            assert fault(device.model, [device.placed(each)[1] for each in found]) is None
            assert len({each.identity for each in found}) == len(found)
