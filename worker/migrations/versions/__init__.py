"""One file a change, oldest first; a released one is never edited."""
