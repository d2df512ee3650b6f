"""The ground floor: wire records, the adapter contract, the base model, settings and errors."""
