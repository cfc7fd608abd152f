"""Who is written for and who waits, in the order in which they came."""

from ddlm.config import UserError
from ddlm.ui import Limits


class Line:
    """Used on the server's event loop alone."""

    def __init__(self, limits: Limits) -> None:
        self.at_once, self.most = limits.at_once, limits.at_once + limits.waiting
        self._tickets: list[object] = []

    def join(self) -> object:
        """A ticket. Raises: UserError when too many wait."""
        if len(self._tickets) >= self.most:
            raise UserError(f"too many visitors: {self.most - self.at_once} wait already; try again in a moment")
        self._tickets.append(ticket := object())
        return ticket

    def before(self, ticket: object) -> int:
        """How many have to leave until it is this one's turn."""
        return max(0, self._tickets.index(ticket) - self.at_once + 1)

    def leave(self, ticket: object) -> None:
        self._tickets.remove(ticket)
