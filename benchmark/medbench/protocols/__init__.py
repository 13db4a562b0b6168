"""Loops that several tasks share: linear probe, detection, feature extraction."""
