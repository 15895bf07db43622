"""Tuning: a search for the front of standard accuracy and UCert, by any number of workers."""
