"""Contract tests for plug-ins, ours and those of others: pytest classes to inherit from. Only this room needs pytest.

A plug-in's own tests name what they test, and pytest does the rest:

    from segdist.testing.families import FamilyContract

    class TestTiny(FamilyContract):
        families = {"tiny": {}}
"""

import pytest

# So that a failed comparison shows its values, as in the tests of the plug-in itself.
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in ("predicting", "training", "formats", "prompts")))
