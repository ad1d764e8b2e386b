"""Models of everything that crosses Kafka, one module per topic owner.

Past-tense facts `<noun>.<verb>.v<N>`, imperative commands; readers ignore unknown fields, writers emit declared ones.
"""
