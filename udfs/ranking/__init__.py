"""One user's state to one ranked list: retrieve, score, rule, diversify, explore."""
