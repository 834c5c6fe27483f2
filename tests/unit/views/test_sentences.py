from __future__ import annotations

import pytest

from runnerd import model
from runnerd.views import sentences
from tests.support.clocks import START


@pytest.mark.parametrize(
    ("what", "detail", "text"),
    [
        pytest.param("retry-wanted", "rd-x7k2m9", "re-run wanted (preempted: rd-x7k2m9)", id="wanted"),
        pytest.param("retry-taken", "re-run number 2", "re-run by the forge (preempted: re-run number 2)", id="taken"),
        pytest.param("started", "vm-1-a1", "job started (preempted: runner vm-1-a1)", id="an ordinary step"),
    ],
)
def test_the_detail_of_a_rerun_is_not_called_a_runner(what: str, detail: str, text: str) -> None:
    assert sentences.event(model.Event(START, "job", "hub|1", what, "preempted", detail)) == text
