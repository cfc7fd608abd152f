"""First come, first written for."""

import pytest

from ddlm.config import UserError
from ddlm.ui import Limits
from ddlm.ui.line import Line


def test_visitors_are_written_for_in_the_order_in_which_they_came():
    line = Line(Limits(at_once=2, waiting=2))
    tickets = [line.join() for _ in range(4)]
    assert [line.before(ticket) for ticket in tickets] == [0, 0, 1, 2]
    line.leave(tickets[1])
    assert [line.before(tickets[number]) for number in (0, 2, 3)] == [0, 0, 1]
    line.leave(tickets[3])
    assert line.before(tickets[2]) == 0


def test_too_many_are_told_until_one_leaves():
    line = Line(Limits(at_once=1, waiting=1))
    first = line.join()
    line.join()
    with pytest.raises(UserError, match="too many visitors: 1 wait already; try again in a moment"):
        line.join()
    line.leave(first)
    assert line.before(line.join()) == 1
