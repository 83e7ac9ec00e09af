"""What all tests share."""

from hypothesis import settings

# A busy machine is no failure: examples are bounded in number, not in wall-clock time.
settings.register_profile("failwise", deadline=None)
settings.load_profile("failwise")
