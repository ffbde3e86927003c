"""What crosses a process boundary: Avro schemas, records, codec, names of topics and keys. Pure."""
