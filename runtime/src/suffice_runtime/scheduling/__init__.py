"""Schedule requests that arrive one by one: a state machine without threads, clocks or HTTP."""
