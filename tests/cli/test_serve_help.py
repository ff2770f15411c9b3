"""What `partita serve --help` shows can be pasted."""

from __future__ import annotations

import json
import re

from partita.cli.serve import EXAMPLES
from partita.serve.worker.spec import DEFAULT_INPUTS


def test_the_query_in_the_help_is_one_that_emulated_workers_take() -> None:
    found = re.search(r"-d '(.*?)'", EXAMPLES, re.DOTALL)
    assert found is not None
    (given,) = json.loads(found[1])["inputs"]
    (taken,) = DEFAULT_INPUTS
    assert (given["name"], given["datatype"]) == (taken.name, taken.datatype)
    assert given["shape"] == [1, *taken.shape[1:]]
    assert len(given["data"]) == taken.shape[1]
