"""The trio shell around one instance: node, relays, appliers."""
