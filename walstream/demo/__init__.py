"""The demo: a month of real flights through a real Kafka into a real Cassandra, with a worker killed on the way."""
