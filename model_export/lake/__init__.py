"""The lake: every topic's records as they came, in Parquet files that say in their names what they hold."""
