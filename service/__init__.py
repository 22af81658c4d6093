"""RankRAG as a service: retrieve, score with P(True), keep the best, answer from them."""

__version__ = "0.1.0"
