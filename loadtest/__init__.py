"""Load on a coordinator, and the truth about what became of it.

`gastown loadtest` drives a fleet of real connections, `python -m gastown.loadtest.bench` sets the coordinator beside
its peers. Both only measure: a target missed is reported, a bead lost or done twice is an error.
"""
