"""The door for people and platforms: HTTP.

Owns: routes (one table), keys, JSON in and out, and which error has which status. Decides nothing about stacks.
"""
