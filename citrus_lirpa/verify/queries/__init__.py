"""Decides VNN-LIB queries: is there an input of one or several networks with which they hold?"""
