"""Models that learn while they serve: a ranker over candidates and item embeddings."""
