"""`gastown demo`: five real agents against a real daemon."""
