"""The synchronous queue (limbo): ownership, acks, CONFIRM, promote and demote. Rules [Q-*], [P-*]."""
