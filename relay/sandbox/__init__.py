"""Faithful stand-ins of the providers, and a sink: what `relay dev` runs against and the tests are made with.

Nothing in the product imports this, and this imports nothing of the product's adapters: it is a second reading of the
same published pages, so a misreading of one shows against the other.
"""
