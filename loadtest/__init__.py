"""Load tests: what the service does under traffic, beside what vLLM itself could do."""
