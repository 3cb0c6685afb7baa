"""How we know that it works; ``python3 -m tests`` runs all of it."""
