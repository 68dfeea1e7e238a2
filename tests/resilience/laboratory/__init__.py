"""The fault laboratory: a server that misbehaves on command, and calls that must survive it."""
