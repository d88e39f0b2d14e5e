"""The published case: a detector whose tasks are its box, objectness and class losses."""
