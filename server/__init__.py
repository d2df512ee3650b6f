"""The federation server: the SuperLink, the round loop, aggregation and the store."""
