"""The experiments behind the claims, each a command."""
