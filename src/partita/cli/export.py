"""`partita export`: plans in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from partita.cli.options import echo

if TYPE_CHECKING:
    from collections.abc import Mapping

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="Plan or layouts (JSON); - is stdin.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write here and not to stdout.")]

export = typer.Typer(help="Write a plan in the format of another tool.", no_args_is_help=True)


@export.callback()
def _family() -> None:
    """Keep the tool's name a word of its own, though it is the only one."""


@export.command("mig-parted")
def mig_parted(plan: PlanFile, out: Out = None) -> None:
    """Write a config that nvidia-mig-parted reads, with one named config per node.

    Apply it on each node with `nvidia-mig-parted apply -f FILE -c partita-node-0`. GPUs that the plan does
    not use are not mentioned, and so left as they are.
    """
    from partita.files import replacing  # noqa: PLC0415
    from partita.mig_parted import mig_parted_config  # noqa: PLC0415 -- only this command needs it
    from partita.transition.document import read_target  # noqa: PLC0415

    text = to_yaml(mig_parted_config(read_target(plan)))
    if out is None:
        echo(text, newline=False)
        return
    with replacing(out) as stream:
        stream.write(text)


def to_yaml(config: Mapping[str, Any]) -> str:
    """Return a config as YAML, with the devices of an entry on one line and its counts on another."""
    import yaml  # noqa: PLC0415 -- slow to import

    # The C writer is ten times as fast, and absent where PyYAML was built without libyaml.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(
        config, Dumper=dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=2**30
    )
    return text
