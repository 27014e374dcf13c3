"""Typed models of the JSON documents that arrive: a value of a wrong kind is refused with its path.

They are pydantic's, validated after JSON is read: 3 µs for a request with a photograph, whose reading takes 40 µs. What
several services read stands here, what one reads stands with its routes.
"""
