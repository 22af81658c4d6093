"""The chart in `rankrag/`, and `generate`, which makes its schema and README of its values."""
