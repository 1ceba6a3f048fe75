"""PostGraphile: a GraphQL API of PostgreSQL's tables."""
