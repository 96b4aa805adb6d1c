"""HTTP: the API, the dashboard and the API documentation.

Owns: the route table, the keys, JSON in and out, and which error gets which status. Decides nothing about stacks.
"""
