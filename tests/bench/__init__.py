"""How fast it is, against bare loops and against the obvious way; see README.md here."""
