"""The rerank clients of others, unmodified but for base URL and key, each in an environment it can live in.

They ask real service processes over HTTP; only vLLM is the one in tests/fake_vllm.py, since it is the wire between
client and service that is tried. `make test-clients` makes the environments and runs all of it.
"""
