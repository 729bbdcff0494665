"""Splits to metrics to a report."""
