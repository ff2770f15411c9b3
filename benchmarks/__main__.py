"""`python -m benchmarks [NAME ...] [--quick]`: run benchmarks and write their tables to docs/benchmarks.md."""

from __future__ import annotations

import argparse
from importlib import import_module

from benchmarks.checked import check_every_plan
from benchmarks.report import write_section

NAMES = (
    "planning",
    "scale",
    "survive",
    "sharing",
    "transitions",
    "plan_from",
    "what_if",
    "what_if_edges",
    "crashes",
    "serving",
    "serving_promises",
    "gateway",
    "promises",
    "soak",
    "jobs",
    "job_queue",
    "model_memory",
    "kubernetes_allocation",
    "gateway_hosts",
    "promises_gateway",
    "jitter",
    "kubernetes_first_fit",
    "kubernetes_scale",
    "series",
    "dash",
    "dash_browser",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="which ones; all without a name")
    parser.add_argument("--quick", action="store_true", help="smaller cases, and print instead of writing")
    asked = parser.parse_args()
    check_every_plan()
    for name in asked.names or NAMES:
        text = import_module(f"benchmarks.{name}").run(quick=asked.quick)
        print(text, flush=True)
        if not asked.quick:
            write_section(name, text)


main()
