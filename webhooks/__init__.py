"""Webhook ingestion: verify, parse, store, respond."""
