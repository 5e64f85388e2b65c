"""A server on loopback that speaks the OpenAI chat protocol and answers the prompts of `synthesis` by grammar.

It stands in for a language model where none may be called: in tests, in benchmarks and in `make generate-demo`.
"""
