"""Files of models: fetched, proved, kept in the cache."""
