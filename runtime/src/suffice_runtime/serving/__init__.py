"""Serve requests that arrive one by one: the scheduler, without threads, clocks or HTTP."""
