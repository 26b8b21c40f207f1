"""Metrics, baselines, and the gate that compares metrics with a git revision."""
