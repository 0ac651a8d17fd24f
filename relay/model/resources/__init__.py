"""The public JSON of relay's nouns: a Struct and the function that makes it, one module a resource.

The API's answers and the notifications are made of them, and `web/openapi.py` makes their schemas. A field's place in
its Struct is its place in the JSON: notifications are signed byte for byte.
"""
