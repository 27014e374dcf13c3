"""A shape of load as Locust takes it."""

from __future__ import annotations

from typing import ClassVar

from locust import LoadTestShape

from shapes import FUNCTIONS, users_at


def shape(name: str, most: int, length: float) -> type[LoadTestShape]:
    """Return the Locust shape of that name with at most ``most`` users, over ``length`` seconds."""

    class Shape(LoadTestShape):  # type: ignore[misc]
        abstract: ClassVar[bool] = False

        def tick(self) -> tuple[int, float] | None:
            users = users_at(FUNCTIONS[name], self.get_run_time(), most, length)
            return None if users is None else (users, max(1, most))

    Shape.__name__ = name.capitalize()
    return Shape
