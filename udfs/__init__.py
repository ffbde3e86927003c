"""The pure core: logic, features, retrieval, ranking. No engine, clock, network or environment."""
