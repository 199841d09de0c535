"""Faust over record batches, with checkpoints as Kafka transactions. Knows neither namespaces nor sinks."""
