"""Both generators run the same tests; the compiled one only where it is built."""

import pytest
from gastown.loadtest import generator


@pytest.fixture(params=["python", "compiled"])
def python(request: pytest.FixtureRequest) -> bool:
    """Whether to force the Python fleet."""
    if request.param == "compiled" and generator.compiled() is None:
        pytest.skip("the compiled generator is not built (gastown loadtest --build builds it)")
    return bool(request.param == "python")
