"""Metrics, baselines, predictions, tables and model cards: what the evaluate stage runs."""
