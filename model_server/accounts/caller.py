"""Who sends a request, and what is theirs to see."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody unknown, a user, or an administrator; what they do is recorded under ``user_id``.

    ``sees_unowned``: what somebody unknown has made is theirs to see as well, which mode ``open`` grants.
    """

    user_id: UUID | None = None
    name: str | None = None
    is_admin: bool = False
    sees_unowned: bool = False

    @property
    def is_anonymous(self) -> bool:
        """Whether nobody knows who it is."""
        return self.user_id is None

    def may_see(self, owner: UUID | None) -> bool:
        """Whether what ``owner`` has made, None: somebody unknown, is theirs to see."""
        if self.is_admin:
            return True
        return self.sees_unowned if owner is None else owner == self.user_id
