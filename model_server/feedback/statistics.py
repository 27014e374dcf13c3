"""What can be said about a proportion, and about people who judge the same thing."""

from __future__ import annotations

import math
from dataclasses import dataclass

NORMAL_95 = 1.959963984540054
"""Quantile of the normal distribution that leaves 2.5 % on each side."""


@dataclass(frozen=True, slots=True)
class Proportion:
    """``count`` of ``total``, with the 95 % interval of Wilson (https://doi.org/10.1080/01621459.1927.10502953).

    ``share``, ``low`` and ``high`` are 0..1, and None where ``total`` is 0.
    """

    count: int
    total: int

    @property
    def share(self) -> float | None:
        """The proportion itself."""
        return self.count / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval's ends."""
        if not self.total:
            return None
        squared, total = NORMAL_95**2, self.total
        share = self.count / total
        middle = share + squared / (2 * total)
        reach = NORMAL_95 * math.sqrt(share * (1 - share) / total + squared / (4 * total**2))
        scale = 1 + squared / total
        return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What several judges each said of the same pictures.

    ``pictures`` have two judges or more, who named ``votes`` classes; of ``unanimous`` all named the same.
    ``disagreement`` is the sum over pictures of (n² - Σ n_c²) / (n - 1), n the judges and n_c those who named class c;
    ``squares`` is Σ N_c², N_c the votes for class c over all these pictures.
    """

    pictures: int
    unanimous: int
    votes: int
    disagreement: float
    squares: int

    @property
    def alpha(self) -> float | None:
        """Krippendorff's alpha for nominal data: 1 is agreement, 0 what chance gives, None where nothing differs.

        From the coincidence matrix (https://repository.upenn.edu/asc_papers/43).
        """
        expected = self.votes**2 - self.squares
        if expected <= 0:
            return None
        return 1 - (self.votes - 1) * self.disagreement / expected
