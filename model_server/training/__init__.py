"""Trains a small network on labelled pictures and makes a bundle of it."""
