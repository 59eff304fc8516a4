"""Graphs of a bundle before they are traced: modules, their inputs and outputs, and their axes."""
