"""Pure decisions about replicated rows: what to send, what to apply. Rules [A-*]."""
