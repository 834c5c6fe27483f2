from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import pytest

from runnerd import errors, model
from runnerd.model import AttemptState, InstanceState, RegistrationState

TABLES: list[tuple[type[enum.StrEnum], Mapping[Any, frozenset[Any]]]] = [
    (InstanceState, model.INSTANCE_TRANSITIONS),
    (AttemptState, model.ATTEMPT_TRANSITIONS),
    (RegistrationState, model.REGISTRATION_TRANSITIONS),
]


@pytest.mark.parametrize(("states", "table"), TABLES)
def test_every_state_has_its_row_and_every_edge_is_judged_by_the_table(
    states: type[enum.StrEnum], table: Mapping[Any, frozenset[Any]]
) -> None:
    assert set(table) == set(states)
    for old in states:
        for new in states:
            if new in table[old]:
                model.check_transition("it", old, new)
            else:
                with pytest.raises(errors.IllegalTransition, match=f"{old.value} -> {new.value}"):
                    model.check_transition("it", old, new)


@pytest.mark.parametrize(("states", "table"), TABLES)
def test_every_state_is_reached_from_the_first_and_leads_to_an_end(
    states: type[enum.StrEnum], table: Mapping[Any, frozenset[Any]]
) -> None:
    first = next(iter(states))
    reached, ahead = {first}, [first]
    while ahead:
        for new in table[ahead.pop()] - reached:
            reached.add(new)
            ahead.append(new)
    assert reached == set(states)
    for state in states:
        seen, ahead = {state}, [state]
        while ahead:
            for new in table[ahead.pop()] - seen:
                seen.add(new)
                ahead.append(new)
        assert any(not table[one] for one in seen), f"{state} leads nowhere"


def test_closed_states_have_no_way_out_and_cost_nothing() -> None:
    assert all(not model.INSTANCE_TRANSITIONS[state] for state in model.CLOSED)
    assert not model.CLOSED & model.MAY_COST
    assert InstanceState.PLANNED not in model.MAY_COST
    assert InstanceState.UNKNOWN in model.MAY_COST


def test_an_instance_that_may_have_a_job_reaches_its_end_only_through_draining_or_a_provider_that_says_gone() -> None:
    into_ending = {old for old, news in model.INSTANCE_TRANSITIONS.items() if InstanceState.ENDING in news}
    assert InstanceState.DRAINING in into_ending
    assert InstanceState.GONE in model.INSTANCE_TRANSITIONS[InstanceState.BUSY]


def test_an_end_is_final_for_a_runners_name() -> None:
    assert not model.REGISTRATION_TRANSITIONS[RegistrationState.GONE]
    assert RegistrationState.REGISTERED not in model.REGISTRATION_TRANSITIONS[RegistrationState.UNCLEAR]


def test_a_queue_reads_back_what_it_prints() -> None:
    queue = model.Queue("hub", "acme/ml", "gpu-t4")
    assert model.Queue.parse(str(queue)) == queue


def test_a_job_is_known_by_where_it_is_not_by_its_id() -> None:
    assert model.job_key("hub", "acme/ml", "17", "train") == "hub|acme/ml|17|train"
