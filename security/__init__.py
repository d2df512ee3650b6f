"""Identities, envelopes, the vault and admission: what decides who is believed, and what is let in."""
