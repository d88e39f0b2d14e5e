"""Measured time: of whole networks, each in a process of its own, and of single layers."""
