"""Observation models: a source's data, bound to what happened to it."""
